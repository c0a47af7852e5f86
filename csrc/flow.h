// The steps of a flow, written once: for threads of the CPU and for threads of a GPU, and, on the
// host again, as a test of the GPU's.
//
// A team is the workers of one flow:
//     team.sync()            all wait for one another; what they wrote before, all see after
//     team.raise(step)       says that a particle of this step is not finite
//     team.raised(step)      whether one was; for all, after a sync
// A field is its particles and data, of up to kMaxD coordinates, in groups of kRows. It has
//     field.share(team)      which rows are this worker's
//     field.open(step)       the kernel of a step
//     field.position(i, k)   where particle i is
//     field.gradient(team, z, g)      of the rows z[r][k]; all workers of a team come here equally
//                                     often, so it may sync
//     field.leads(team)      whether this worker stores the rows, when several sum one
//     field.publish(team, i, z)       where particle i will be
//     field.turn()           what was published is where the particles are
#pragma once

#include "philox.h"

namespace dmmd {

/// Rows first, first + stride, ... below end; those from n on are there to keep workers together.
struct Share {
  int64_t first, end, stride;
};

/// One particle's update: v <- momentum v + g min(1, max_norm / |g|), z <- z - step_size v. Without
/// momentum there is no v.
template <class T>
struct Motion {
  const T* g;
  T* v;
  T step_size, momentum, factor;

  /// The coordinates of g beyond those of the particle are zero.
  DMMD_HOST_DEVICE Motion(const T* g, T* v, int64_t d, T step_size, T momentum, T max_norm)
      : g(g), v(v), step_size(step_size), momentum(momentum), factor(1) {
    if (!(max_norm > T(0))) return;
    // In units of the largest coordinate, since |g|^2 overflows long before g does.
    T largest = 0, square = 0;
    for (int64_t k = 0; k < d; ++k) {
      const T size = g[k] < T(0) ? -g[k] : g[k];
      if (size > largest) largest = size;
    }
    if (!(largest > T(0))) return;
    for (int64_t k = 0; k < d; ++k) square += (g[k] / largest) * (g[k] / largest);
    const T shrink = max_norm / largest / std::sqrt(square);
    if (!(shrink >= T(1))) factor = shrink;
  }

  /// Where coordinate k goes from z.
  DMMD_HOST_DEVICE T from(T z, int64_t k) const {
    const T turned = v ? momentum * v[k] + factor * g[k] : factor * g[k];
    if (v) v[k] = turned;
    return z - step_size * turned;
  }
};

/// z[k] += size xi_k for the d coordinates of one particle. With a bound that the compiler knows, D
/// >= d, arrays stay in registers.
template <int64_t D = 0, class T>
DMMD_HOST_DEVICE void add_noise(T* z, int64_t d, T size, Stream stream, int64_t particle) {
  DMMD_UNROLL
  for (int64_t k = 0; k < (D ? D : d); k += 4) {
    T xi[4];
    normals(stream, uint32_t(particle), uint32_t(k / 4), xi);
    DMMD_UNROLL
    for (int e = 0; e < 4; ++e)
      if (k + e < d && (D == 0 || k + e < D)) z[k + e] += size * xi[e];
  }
}

template <class T>
DMMD_HOST_DEVICE Stream stream_of(const Flow<T>& flow, int64_t block, int64_t step) {
  return {flow.seed, uint32_t(flow.first_flow + block), uint32_t(flow.first_step + step)};
}

/// Reads rows z of the worker where the gradient is wanted; rows beyond n repeat the last.
template <class Field, class T, int R, int D>
DMMD_HOST_DEVICE void read_rows(const Field& field, const Flow<T>& flow, int64_t block,
                                int64_t step, int64_t row, T (&z)[R][D]) {
  const T noise = flow.noise ? *flow.noise.at(step, block) : T(0);
  for (int r = 0; r < R; ++r) {
    const int64_t i = row + r < flow.n ? row + r : flow.n - 1;
    for (int k = 0; k < D; ++k) z[r][k] = k < flow.d ? field.position(i, k) : T(0);
    if (noise != T(0)) add_noise<D>(z[r], flow.d, noise, stream_of(flow, block, step), i);
  }
}

/// Moves particle i along g, publishes where to, and tells whether that is finite.
template <class Team, class Field, class T, int D>
DMMD_HOST_DEVICE bool move_row(Team& team, Field& field, const Flow<T>& flow, int64_t block,
                               T step_size, int64_t i, const T (&g)[D]) {
  T* v = flow.velocity ? flow.velocity.block(block) + i * flow.d : nullptr;
  const Motion<T> motion(g, v, D, step_size, flow.momentum, flow.max_norm);
  T z[D];
  bool finite = true;
  for (int k = 0; k < D; ++k) {
    z[k] = k < flow.d ? motion.from(field.position(i, k), k) : T(0);
    finite = finite && z[k] - z[k] == T(0);
  }
  field.publish(team, i, z);
  return finite;
}

/// Publishes where the rows of this worker are after one step; raises it where that is not finite.
template <class Team, class Field, class T>
DMMD_HOST_DEVICE void step_once(Team& team, Field& field, const Flow<T>& flow, int64_t block,
                                int64_t step) {
  constexpr int R = Field::kRows, D = Field::kMaxD;
  const Share mine = field.share(team);
  const T step_size = *flow.step_size.at(step, block);
  field.open(step);
  for (int64_t row = mine.first; row < mine.end; row += mine.stride) {
    T z[R][D], g[R][D];
    read_rows(field, flow, block, step, row, z);
    field.gradient(team, z, g);
    if (!field.leads(team)) continue;
    for (int r = 0; r < R; ++r)
      if (row + r < flow.n && !move_row(team, field, flow, block, step_size, row + r, g[r]))
        team.raise(step + 1);
  }
}

/// All steps of the flow of one block. Returns the number of the step after which a particle was
/// not finite, counted from 1, or 0; the field then is where it was before that step.
template <class Team, class Field, class T>
DMMD_HOST_DEVICE int64_t advance(Team& team, Field& field, const Flow<T>& flow, int64_t block) {
  for (int64_t step = 0; step < flow.steps; ++step) {
    step_once(team, field, flow, block, step);
    team.sync();
    if (team.raised(step + 1)) return step + 1;
    field.turn();
  }
  return 0;
}

}  // namespace dmmd
