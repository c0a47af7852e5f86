// A flow of few coordinates: clouds coordinate by coordinate, as flow_rows wants them, and the
// field that ../flow.h moves.
#pragma once

#include <algorithm>

#include "../flow.h"
#include "flow_rows.h"
#include "memory.h"
#include "sweep.h"
#include "team.h"

namespace dmmd::cpu {

/// Columns x (d, pitch) with a weight each, padded with copies of the last one of weight zero.
template <class T>
struct Cloud {
  int64_t count, columns, d, pitch, uniform = 0;
  Memory<T> memory;
  T *x, *w;

  Cloud(int64_t count, int64_t d)
      : count(count),
        columns(round_up(count, kFlowPanel / int64_t(sizeof(T)))),
        d(d),
        pitch(columns + kFlowPanel / int64_t(sizeof(T))),
        memory(allocate<T>(product(padded_d(d) + 1, pitch))),
        x(memory.get()),
        w(x + padded_d(d) * pitch) {
    std::fill_n(x, (padded_d(d) + 1) * pitch, T(0));
  }

  void set(int64_t j, const T* point) {
    const int64_t end = j + 1 < count ? j + 1 : columns;
    for (int64_t k = 0; k < d; ++k)
      for (int64_t at = j; at < end; ++at) x[k * pitch + at] = point[k];
  }

  void fill(const T* points) {
    for (int64_t j = 0; j < count; ++j) set(j, points + j * d);
  }

  /// Column j weighs weight_of(j).
  template <class WeightOf>
  void weigh(WeightOf weight_of) {
    const int64_t panel = kFlowPanel / int64_t(sizeof(T));
    for (int64_t j = 0; j < count; ++j) w[j] = weight_of(j);
    const bool is_uniform = std::all_of(w, w + count, [&](T v) { return v == w[0]; });
    uniform = is_uniform ? count / panel * panel : 0;
  }

  void unpack(T* points) const {
    for (int64_t j = 0; j < count; ++j)
      for (int64_t k = 0; k < d; ++k) points[j * d + k] = x[k * pitch + j];
  }
};

/// Particles and data of one flow of few coordinates.
template <class T>
struct Clouds {
  Cloud<T> particles[2], data;

  Clouds(const Flow<T>& flow, int64_t block)
      : particles{{flow.n, flow.d}, {flow.n, flow.d}}, data(flow.m, flow.d) {
    particles[0].fill(flow.x.block(block));
    data.fill(flow.y.block(block));
    for (Cloud<T>& cloud : particles) cloud.weigh([&](int64_t) { return T(1) / T(flow.n); });
    data.weigh([&](int64_t j) { return -flow.w.block(block)[j]; });
  }
};

/// How one worker sees them: see flow.h.
template <class T>
struct Field {
  static constexpr int kRows = kFlowRows, kMaxD = int(kMaxFlowD);

  const Flow<T>& flow;
  Clouds<T>& clouds;
  int64_t block;
  int64_t step = 0;
  int now = 0;

  const Cloud<T>& here() const { return clouds.particles[now]; }
  T position(int64_t i, int64_t k) const { return here().x[k * here().pitch + i]; }
  bool leads(const Team&) const { return true; }
  void open(int64_t to) { step = to; }
  void turn() { now = 1 - now; }
  void publish(const Team&, int64_t i, const T (&z)[kMaxD]) { clouds.particles[1 - now].set(i, z); }

  Share share(const Team& team) const {
    const int64_t groups = (flow.n + kRows - 1) / kRows;
    const int64_t first = groups * team.rank / team.size;
    const int64_t end = groups * (team.rank + 1) / team.size;
    return {first * kRows, std::min(end * kRows, flow.n), kRows};
  }

  void gradient(const Team&, const T (&z)[kRows][kMaxD], T (&g)[kRows][kMaxD]) const {
    const int64_t d = padded_d(flow.d);
    T packed[kMaxD * kRows] = {};
    double sums[kMaxD * kRows] = {};
    for (int r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < flow.d; ++k) packed[k * kRows + r] = z[r][k];
    for (const auto* kernel : {&flow.radial, &flow.polynomial})
      for (const Cloud<T>* cloud : {&here(), static_cast<const Cloud<T>*>(&clouds.data)})
        if (kernel->components)
          isa<T>().flow_rows({packed, cloud->x, cloud->w, cloud->columns, cloud->pitch, d,
                              cloud->uniform, kernel->kernel, kernel->components,
                              kernel->params.at(step, block), sums});
    for (int r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < kMaxD; ++k) g[r][k] = T(sums[k * kRows + r]);
  }
};

}  // namespace dmmd::cpu
