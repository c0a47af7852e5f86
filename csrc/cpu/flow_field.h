// A flow of few coordinates: clouds coordinate by coordinate, as flow_rows wants them, and the
// field that ../flow.h moves.
#pragma once

#include <algorithm>
#include <limits>

#include "../flow.h"
#include "flow_rows.h"
#include "memory.h"
#include "sweep.h"
#include "team.h"

namespace dmmd::cpu {

/// Between which coordinates points lie; NaN lies nowhere.
template <class T>
struct Box {
  T low[kMaxFlowD], high[kMaxFlowD];

  Box() {
    std::fill_n(low, kMaxFlowD, std::numeric_limits<T>::infinity());
    std::fill_n(high, kMaxFlowD, -std::numeric_limits<T>::infinity());
  }

  void take(int64_t k, T coordinate) {
    low[k] = coordinate < low[k] ? coordinate : low[k];
    high[k] = coordinate > high[k] ? coordinate : high[k];
  }

  /// The largest |z - x|^2 of a point of each; NaN where a box is empty.
  T reach(const Box& other, int64_t d) const {
    T square = 0;
    for (int64_t k = 0; k < d; ++k) {
      const T most = std::max(high[k] - other.low[k], other.high[k] - low[k]);
      square += most * most;
    }
    return square;
  }
};

/// Columns x (d, pitch) with a weight each, padded with copies of the last one of weight zero.
template <class T>
struct Cloud {
  int64_t count, columns, d, pitch;
  bool is_uniform = false;
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
    for (int64_t k = 0; k < d; ++k) x[k * pitch + j] = point[k];
    if (j + 1 < count) return;
    for (int64_t k = 0; k < d; ++k) std::fill_n(x + k * pitch + count, columns - count, point[k]);
  }

  void fill(const T* points) {
    for (int64_t j = 0; j < count; ++j) set(j, points + j * d);
  }

  /// Column j weighs weight_of(j).
  template <class WeightOf>
  void weigh(WeightOf weight_of) {
    for (int64_t j = 0; j < count; ++j) w[j] = weight_of(j);
    is_uniform = std::all_of(w, w + count, [&](T v) { return v == w[0]; });
  }

  Box<T> box() const {
    Box<T> box;
    for (int64_t k = 0; k < d; ++k)
      for (int64_t j = 0; j < count; ++j) box.take(k, x[k * pitch + j]);
    return box;
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
  Box<T> data_box;

  Clouds(const Flow<T>& flow, int64_t block)
      : particles{{flow.n, flow.d}, {flow.n, flow.d}}, data(flow.m, flow.d) {
    particles[0].fill(flow.x.block(block));
    data.fill(flow.y.block(block));
    for (Cloud<T>& cloud : particles) cloud.weigh([&](int64_t) { return T(1) / T(flow.n); });
    data.weigh([&](int64_t j) { return -flow.w.block(block)[j]; });
    data_box = data.box();
  }
};

/// How one worker sees them: see flow.h. D is padded_d(d).
template <int D, class T>
struct Field {
  static constexpr int kRows = kFlowRows, kMaxD = D;

  const Flow<T>& flow;
  Clouds<T>& clouds;
  int64_t block;
  int64_t step = 0;
  int now = 0;
  Box<T> box = {};  // of the particles

  const Cloud<T>& here() const { return clouds.particles[now]; }
  T position(int64_t i, int64_t k) const { return here().x[k * here().pitch + i]; }
  bool leads(const Team&) const { return true; }
  void open(int64_t to) {
    step = to;
    box = here().box();
  }
  void turn() { now = 1 - now; }
  void publish(const Team&, int64_t i, const T (&z)[kMaxD]) { clouds.particles[1 - now].set(i, z); }

  Share share(const Team& team) const {
    const int64_t groups = (flow.n + kRows - 1) / kRows;
    const int64_t first = groups * team.rank / team.size;
    const int64_t end = groups * (team.rank + 1) / team.size;
    return {first * kRows, std::min(end * kRows, flow.n), kRows};
  }

  void gradient(const Team&, const T (&z)[kRows][kMaxD], T (&g)[kRows][kMaxD]) const {
    T packed[kMaxD * kRows];
    double sums[kMaxD * kRows];
    Box<T> rows;
    for (int64_t k = 0; k < D; ++k)
      for (int r = 0; r < kRows; ++r) {
        packed[k * kRows + r] = z[r][k];
        sums[k * kRows + r] = 0;
        rows.take(k, z[r][k]);
      }
    const auto add = [&](const ScheduledKernel<T>& kernel, const Cloud<T>& cloud, T reach) {
      if (kernel.components)
        isa<T>().flow_rows({packed, cloud.x, cloud.w, cloud.count, cloud.pitch, D, reach,
                            cloud.is_uniform, kernel.kernel, kernel.components,
                            kernel.params.at(step, block), sums});
    };
    for (const auto* kernel : {&flow.radial, &flow.polynomial}) {
      add(*kernel, here(), rows.reach(box, flow.d));
      add(*kernel, clouds.data, rows.reach(clouds.data_box, flow.d));
    }
    for (int r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < D; ++k) g[r][k] = T(sums[k * kRows + r]);
  }
};

}  // namespace dmmd::cpu
