// A flow of many coordinates: each step is a sweep over the pairs, rows by rows. Data is packed for
// the sweeps once, particles at each step.
#pragma once

#include <algorithm>
#include <vector>

#include "../flow.h"
#include "team.h"
#include "workspace.h"

namespace dmmd::cpu {

/// A weighted cloud (m, d), packed for the gradient of one kernel's potential.
template <class T>
struct PackedCloud {
  Sweep<T> sweep;
  PackedSweep<T> packed;

  PackedCloud(const ScheduledKernel<T>& kernel, const T* x, const T* w, int64_t m, int64_t d)
      : sweep(sweep_over(kernel, x, w, m, d)), packed(sweep, false, 1) {}

  static Sweep<T> sweep_over(const ScheduledKernel<T>& kernel, const T* x, const T* w, int64_t m,
                             int64_t d) {
    Problem<T> a;
    a.m = m, a.d = d;
    a.x = {x, 0}, a.w = {w, 0};
    a.kernel = kernel.kernel, a.components = kernel.components;
    return sweep_of(a, kGradient);
  }

  /// Adds to sums, grouped, the gradient at rows z (n, d) but for a factor 2 where K is radial.
  void add(const T* z, int64_t n, const T* params, const Scratch<T>& scratch, double* sums) const {
    Sweep<T> here = sweep;
    here.problem.n = n;
    here.problem.z = {z, 0};
    here.problem.params = {params, 0};
    const Item<T> item = {.block = 0,
                          .row = 0,
                          .row_end = n,
                          .tile = 0,
                          .tile_end = (here.problem.m + here.width - 1) / here.width,
                          .f = nullptr,
                          .g = sums,
                          .q = nullptr,
                          .scratch = scratch};
    prepare_rows(here, item);
    isa<T>().first_order(here, item);
  }
};

/// Any number of coordinates: particles now and next, and the gradient at z = x + noise xi by
/// sweeps, for some rows at a time. What rows are swept together depends on n alone.
template <class T>
struct Sweeps {
  static constexpr int64_t kRows = 128;

  /// What one thread works in.
  struct Workspace {
    ScratchMemory<T> memory;
    Memory<double> sums;
    Scratch<T> scratch = memory.of(0);  // whose zeros every sweep leaves as zeros
  };
  /// A kernel and the data packed for it.
  struct Field {
    const ScheduledKernel<T>* kernel;
    std::unique_ptr<PackedCloud<T>> data;
  };

  const Flow<T>& flow;
  int64_t block, parts, rows;
  std::vector<T> u[2], w, w_data, z, g;
  std::vector<Field> fields;
  std::vector<Workspace> workspaces;
  FirstError error;  // of the sweeps, which may lack memory; the team then stops at that step

  Sweeps(const Flow<T>& flow, int64_t block, int threads)
      : flow(flow),
        block(block),
        parts((flow.n + kRows - 1) / kRows),
        rows(round_up((flow.n + parts - 1) / parts, kGroup)) {
    const int64_t nd = product(flow.n, flow.d);
    const T* x = flow.x.block(block);
    u[0].assign(x, x + nd);
    for (auto* array : {&u[1], &z, &g}) array->resize(size_t(nd));
    w.assign(size_t(flow.n), T(1) / T(flow.n));
    for (int64_t j = 0; j < flow.m; ++j) w_data.push_back(-flow.w.block(block)[j]);
    for (const auto* kernel : {&flow.radial, &flow.polynomial})
      if (kernel->components)
        fields.push_back({kernel, std::make_unique<PackedCloud<T>>(*kernel, flow.y.block(block),
                                                                   w_data.data(), flow.m, flow.d)});
    // Tiles of the particles may be wider than those of the data, or narrower.
    const auto particles =
        PackedCloud<T>::sweep_over(*fields[0].kernel, x, w.data(), flow.n, flow.d);
    const Sweep<T>& data = fields[0].data->sweep;
    for (int rank = 0; rank < std::min<int64_t>(threads, parts); ++rank)
      workspaces.push_back(
          {ScratchMemory<T>(particles.width > data.width ? particles : data, rows, false, 1),
           allocate<double>(product(rows, flow.d))});
  }

  void shift(int now, int64_t step, int64_t row, int64_t end) {
    const T noise = flow.noise ? *flow.noise.at(step, block) : T(0);
    const T* x = u[now].data();
    std::copy(x + row * flow.d, x + end * flow.d, z.data() + row * flow.d);
    if (noise == T(0)) return;
    for (int64_t i = row; i < end; ++i)
      add_noise(z.data() + i * flow.d, flow.d, noise, stream_of(flow, block, step), i);
  }

  /// The gradient at rows [row, end) of z.
  void sweep(const std::vector<PackedCloud<T>>& particles, Workspace& own, int64_t step,
             int64_t row, int64_t end) {
    std::fill_n(g.begin() + row * flow.d, (end - row) * flow.d, T(0));
    for (size_t i = 0; i < fields.size(); ++i) {
      const ScheduledKernel<T>& kernel = *fields[i].kernel;
      const T factor = kernel.kernel[0].profile != Profile::polynomial ? T(2) : T(1);
      double* sums = own.sums.get();
      std::fill_n(sums, rows * flow.d, 0.0);
      const PackedCloud<T>* clouds[] = {&particles[i], fields[i].data.get()};
      for (const PackedCloud<T>* cloud : clouds)
        cloud->add(z.data() + row * flow.d, end - row, kernel.params.at(step, block), own.scratch,
                   sums);
      for (int64_t r = row; r < end; ++r)
        for (int64_t k = 0; k < flow.d; ++k)
          g[r * flow.d + k] += factor * T(sums[grouped(r - row, k, flow.d)]);
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

  /// The parts of one worker; whether all are finite after the step.
  bool advance_parts(const Team& team, int now, int64_t step) {
    std::vector<PackedCloud<T>> particles;
    particles.reserve(fields.size());
    for (const Field& field : fields)
      particles.emplace_back(*field.kernel, u[now].data(), w.data(), flow.n, flow.d);
    bool finite = true;
    for (int64_t part = team.rank; part < parts; part += team.size) {
      const int64_t row = std::min(part * rows, flow.n), end = std::min(row + rows, flow.n);
      shift(now, step, row, end);
      sweep(particles, workspaces[size_t(team.rank)], step, row, end);
      finite = move(now, step, row, end) && finite;
    }
    return finite;
  }

  /// As advance() in flow.h, by parts of rows.
  int64_t run(Team& team, int& now) {
    for (int64_t step = 0; step < flow.steps; ++step) {
      bool finite = false;
      error.guard([&] { finite = advance_parts(team, now, step); });
      if (!finite) team.raise(step + 1);
      team.sync();
      if (team.raised(step + 1)) return step + 1;
      now = 1 - now;
    }
    return 0;
  }
};

}  // namespace dmmd::cpu
