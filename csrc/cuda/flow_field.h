// The field of a flow on a GPU, for the steps of ../flow.h. The same source runs on the host with a
// team of one or of several threads, which is how its logic is tested.
//
// `lanes` neighbouring threads share a row: each sums every lanes-th column, and together they add
// up. Columns are read from memory that is near: the clouds themselves where they fit, else tiles
// of them, of which the next is on its way while one is read.
//
// Beyond what flow.h asks, a team has
//     team.block_rank(), team.block_size(), team.block_sync()     the threads that share a tile
//     team.sum(v)                                                 the sum over the lanes of a row
//     team.copy(to, from), team.commit(), team.await(newer)       copies in the background
//     team.store(array, at, v)                                    into every block's `array`
#pragma once

#include "../flow.h"
#include "flow_plan.h"

namespace dmmd::cuda {

/// A kernel by value, since its components are the host's.
struct Components {
  Component of[kMaxFlowComponents];
  int count;
};

/// psi' of one component at t.
DMMD_HOST_DEVICE float slope(Component component, float t, float a) {
#define DMMD_CASE(name) \
  case Profile::name:   \
    return Shape<Profile::name>::jet(t, a, 0).d;
  if (component.profile == Profile::energy && a == 1.f) component.profile = Profile::distance;
  switch (component.profile) {
    DMMD_RADIAL_PROFILES(DMMD_CASE)
    case Profile::polynomial:
      return Shape<Profile::polynomial>::jet(t, a, component.degree).d;
    case Profile::distance:
      return Shape<Profile::distance>::jet(t, a, 0).d;
  }
#undef DMMD_CASE
  return nanf("");  // no profile: never another's slope
}

/// sum_l lambda_l scale_l psi'_l(scale_l q)
DMMD_HOST_DEVICE float slopes(const Components& kernel, const float* params, float q) {
  float total = 0.f;
  for (int l = 0; l < kernel.count; ++l)
    total += params[3 * l] * params[3 * l + 1] *
             slope(kernel.of[l], params[3 * l + 1] * q, params[3 * l + 2]);
  return total;
}

struct Gaussian {
  float rate;
  DMMD_HOST_DEVICE float operator()(float q) const { return exp2f(rate * q); }
};

struct Slopes {
  const Components& kernel;
  const float* params;
  DMMD_HOST_DEVICE float operator()(float q) const { return slopes(kernel, params, q); }
};

/// Columns x[k * pitch + j], j < count, of weights w[j], or of weight one each.
struct Columns {
  const float *x, *w;
  int64_t count, pitch;
};

// Terms that are added before they join the sum, which keeps its rounding error small.
constexpr int64_t kTerms = 64;

/// g[k] += weight sum_j w_j s(q_j) pull_jk over every lanes-th column.
template <int D, bool IsRadial, class Slope>
DMMD_HOST_DEVICE void add_columns(const Slope& s, Columns a, float weight, const float (&z)[D],
                                  int64_t lane, int64_t lanes, float (&g)[D]) {
  for (int64_t begin = lane; begin < a.count; begin += kTerms * lanes) {
    const int64_t end = begin + kTerms * lanes < a.count ? begin + kTerms * lanes : a.count;
    float part[D] = {};
    for (int64_t j = begin; j < end; j += lanes) {
      float pull[D], q = 0.f;
      for (int k = 0; k < D; ++k) {
        const float x = a.x[k * a.pitch + j];
        pull[k] = IsRadial ? z[k] - x : x;
        q += pull[k] * (IsRadial ? pull[k] : z[k]);
      }
      const float sj = a.w ? a.w[j] * s(q) : s(q);
      for (int k = 0; k < D; ++k) part[k] += sj * pull[k];
    }
    for (int k = 0; k < D; ++k) g[k] += weight * part[k];
  }
}

/// Where the clouds of one flow are: (D, n) now and next, (D, m) data, (m) weights of it.
struct Clouds {
  float *now, *next;
  const float *data, *weights;
  float* tiles;  // 2 (D + 1) kTile floats; absent where the clouds are near
};

template <int D>
struct Field {
  static constexpr int kRows = 1, kMaxD = D;

  const Flow<float>& flow;
  const Components &radial, &polynomial;
  Clouds clouds;
  int64_t block, lanes, step = 0;

  DMMD_HOST_DEVICE float position(int64_t i, int64_t k) const { return clouds.now[k * flow.n + i]; }
  DMMD_HOST_DEVICE void open(int64_t to) { step = to; }
  DMMD_HOST_DEVICE void turn() {
    float* next = clouds.next;
    clouds.next = clouds.now;
    clouds.now = next;
  }

  template <class Team>
  DMMD_HOST_DEVICE bool leads(const Team& team) const {
    return team.rank() % lanes == 0;
  }

  // All threads come to gradient() equally often.
  template <class Team>
  DMMD_HOST_DEVICE Share share(const Team& team) const {
    const int64_t rows = team.size() / lanes;
    return {team.rank() / lanes, (flow.n + rows - 1) / rows * rows, rows};
  }

  template <class Team>
  DMMD_HOST_DEVICE void publish(Team& team, int64_t i, const float (&z)[D]) const {
    for (int k = 0; k < D; ++k) team.store(clouds.next, k * flow.n + i, z[k]);
  }

  DMMD_HOST_DEVICE Columns particles() const { return {clouds.now, nullptr, flow.n, flow.n}; }
  DMMD_HOST_DEVICE Columns data() const { return {clouds.data, clouds.weights, flow.m, flow.m}; }

  template <class Team>
  DMMD_HOST_DEVICE void gradient(Team& team, const float (&z)[1][D], float (&g)[1][D]) const {
    for (int k = 0; k < D; ++k) g[0][k] = 0.f;
    if (clouds.tiles) {
      through_tiles(team, particles(), 1.f / float(flow.n), z[0], g[0]);
      through_tiles(team, data(), -1.f, z[0], g[0]);
    } else {
      add(team, particles(), 1.f / float(flow.n), z[0], g[0]);
      add(team, data(), -1.f, z[0], g[0]);
    }
    for (int k = 0; k < D; ++k) g[0][k] = team.sum(g[0][k]);
  }

  template <class Team>
  DMMD_HOST_DEVICE void add(const Team& team, Columns a, float weight, const float (&z)[D],
                            float (&g)[D]) const {
    const int64_t lane = team.rank() % lanes;
    const float* p = radial.count ? flow.radial.params.at(step, block) : nullptr;
    if (radial.count == 1 && radial.of[0].profile == Profile::gaussian) {
      const float factor = -2.f * p[0] * p[1];
      add_columns<D, true>(Gaussian{-1.44269504f * p[1]}, a, weight * factor, z, lane, lanes, g);
    } else if (radial.count) {
      add_columns<D, true>(Slopes{radial, p}, a, 2 * weight, z, lane, lanes, g);
    }
    if (polynomial.count) {
      const Slopes s = {polynomial, flow.polynomial.params.at(step, block)};
      add_columns<D, false>(s, a, weight, z, lane, lanes, g);
    }
  }

  /// Starts to copy tile `index` of the columns into its buffer.
  template <class Team>
  DMMD_HOST_DEVICE void load(Team& team, Columns a, int64_t index) const {
    const int64_t start = index * kTile;
    const int64_t count = start < a.count ? (a.count - start < kTile ? a.count - start : kTile) : 0;
    float* tile = clouds.tiles + index % 2 * (D + 1) * kTile;
    for (int64_t j = team.block_rank(); j < count; j += team.block_size()) {
      for (int k = 0; k < D; ++k) team.copy(tile + k * kTile + j, a.x + k * a.pitch + start + j);
      if (a.w) team.copy(tile + D * kTile + j, a.w + start + j);
    }
    team.commit();
  }

  template <class Team>
  DMMD_HOST_DEVICE void through_tiles(Team& team, Columns a, float weight, const float (&z)[D],
                                      float (&g)[D]) const {
    const int64_t tiles = (a.count + kTile - 1) / kTile;
    load(team, a, 0);
    for (int64_t index = 0; index < tiles; ++index) {
      load(team, a, index + 1);
      team.await(1);
      team.block_sync();
      const float* tile = clouds.tiles + index % 2 * (D + 1) * kTile;
      const int64_t left = a.count - index * kTile;
      add(team, Columns{tile, a.w ? tile + D * kTile : nullptr, left < kTile ? left : kTile, kTile},
          weight, z, g);
      team.block_sync();  // the buffer may be filled again
    }
  }
};

}  // namespace dmmd::cuda
