// A flow of many coordinates: each step is a sweep over the pairs by potential_grad.
#pragma once

#include <algorithm>
#include <vector>

#include "../flow.h"
#include "memory.h"
#include "sweep.h"
#include "team.h"

namespace dmmd::cpu {

/// Any number of coordinates: u = [x; y], now and next, and the gradient by sweeps over u at
/// z = x + noise xi, for some rows at a time. What rows are swept together depends on n alone.
template <class T>
struct Sweeps {
  static constexpr int64_t kRows = 128;

  const Flow<T>& flow;
  int64_t block, parts, rows;
  std::vector<T> u[2], w, z, g, other;
  FirstError error;  // of the sweeps, which may lack memory; the team then stops at that step

  Sweeps(const Flow<T>& flow, int64_t block)
      : flow(flow),
        block(block),
        parts((flow.n + kRows - 1) / kRows),
        rows(round_up((flow.n + parts - 1) / parts, kGroup)) {
    const int64_t nd = product(flow.n, flow.d);
    const T *x = flow.x.block(block), *y = flow.y.block(block);
    u[0].assign(x, x + nd);
    u[0].insert(u[0].end(), y, y + flow.m * flow.d);
    u[1] = u[0];
    w.assign(size_t(flow.n), T(1) / T(flow.n));
    for (int64_t j = 0; j < flow.m; ++j) w.push_back(-flow.w.block(block)[j]);
    for (auto* array : {&z, &g, &other}) array->resize(size_t(nd));
  }

  void shift(int now, int64_t step, int64_t row, int64_t end) {
    const T noise = flow.noise ? *flow.noise.at(step, block) : T(0);
    const T* x = u[now].data();
    std::copy(x + row * flow.d, x + end * flow.d, z.data() + row * flow.d);
    if (noise == T(0)) return;
    for (int64_t i = row; i < end; ++i)
      add_noise(z.data() + i * flow.d, flow.d, noise, stream_of(flow, block, step), i);
  }

  void sweep(int now, int64_t step, int64_t row, int64_t end) {
    const int64_t at = row * flow.d, count = (end - row) * flow.d;
    bool first = true;
    for (const auto* kernel : {&flow.radial, &flow.polynomial}) {
      if (!kernel->components) continue;
      Problem<T> a;
      a.n = end - row, a.m = flow.n + flow.m, a.d = flow.d;
      a.z = {z.data() + at, 0}, a.x = {u[now].data(), 0}, a.w = {w.data(), 0};
      a.params = {kernel->params.at(step, block), 0};
      a.kernel = kernel->kernel, a.components = kernel->components;
      potential_grad(a, (first ? g : other).data() + at);
      for (int64_t i = at; !first && i < at + count; ++i) g[i] += other[i];
      first = false;
    }
  }

  /// Whether rows are finite where the step takes them.
  bool move(int now, int64_t step, int64_t row, int64_t end) {
    bool finite = true;
    for (int64_t i = row; i < end; ++i) {
      const int64_t at = i * flow.d;
      const Motion<T> motion(g.data() + at,
                             flow.velocity ? flow.velocity.block(block) + at : nullptr, flow.d,
                             *flow.step_size.at(step, block), flow.momentum, flow.max_norm);
      for (int64_t k = 0; k < flow.d; ++k) {
        const T to = u[1 - now][at + k] = motion.from(u[now][at + k], k);
        finite = finite && to - to == T(0);
      }
    }
    return finite;
  }

  /// As advance() in flow.h, by parts of rows.
  int64_t run(Team& team, int& now) {
    for (int64_t step = 0; step < flow.steps; ++step) {
      for (int64_t part = team.rank; part < parts; part += team.size) {
        const int64_t row = std::min(part * rows, flow.n), end = std::min(row + rows, flow.n);
        bool finite = false;
        error.guard([&] {
          shift(now, step, row, end);
          sweep(now, step, row, end);
          finite = move(now, step, row, end);
        });
        if (!finite) team.raise(step + 1);
      }
      team.sync();
      if (team.raised(step + 1)) return step + 1;
      now = 1 - now;
    }
    return 0;
  }
};

}  // namespace dmmd::cpu
