// The CPU's flows. Up to kMaxFlowD coordinates, flow_rows sums the pull of the clouds without
// storing a pair, and a flow's threads live from its first step to its last. Beyond, rows go in
// parts of a hundred through the sweeps of potential_grad.
//
// Flows are spread over threads, or the rows of one flow are. Every row is summed by one thread in
// the order of the columns, so results are bitwise equal for any number of threads and for any
// company in the batch.
#include <algorithm>

#include "flow_field.h"
#include "flow_sweeps.h"

namespace dmmd::cpu {
namespace {

// Pairs times coordinates of a step that are worth a barrier.
constexpr double kWorthATeam = 3e4;

template <int D, class T>
int64_t run_padded(const Flow<T>& flow, int64_t block, int threads) {
  Clouds<T> clouds(flow, block);
  const auto [end, now] = run_team(threads, [&](Team& team, int& now) {
    Field<D, T> field{flow, clouds, block};
    const int64_t stopped = advance(team, field, flow, block);
    now = field.now;
    return stopped;
  });
  clouds.particles[now].unpack(flow.x.block(block));
  return end;
}

template <class T>
int64_t run_small(const Flow<T>& flow, int64_t block, int threads) {
  switch (flow.d) {
    case 1:
      return run_padded<1>(flow, block, threads);
    case 2:
      return run_padded<2>(flow, block, threads);
    case 3:
      return run_padded<3>(flow, block, threads);
    case 4:
      return run_padded<4>(flow, block, threads);
    default:
      return run_padded<kMaxFlowD>(flow, block, threads);
  }
}

template <class T>
int64_t run_large(const Flow<T>& flow, int64_t block, int threads) {
  Sweeps<T> sweeps(flow, block, threads);
  const auto [end, now] = run_team(int(std::min<int64_t>(threads, sweeps.parts)),
                                   [&](Team& team, int& now) { return sweeps.run(team, now); });
  sweeps.error.rethrow();
  std::copy_n(sweeps.u[now].begin(), sweeps.z.size(), flow.x.block(block));
  return end;
}

}  // namespace

template <class T>
void flow(const Flow<T>& flow) {
  if (flow.n == 0 || flow.d == 0) return;
  const int threads = std::max(1, flow.threads);
  // A flow for each thread needs no barrier; the rows of one flow go to all threads where flows
  // would leave some idle, and a step is worth it.
  const double pairs = double(flow.n) * double(flow.n + flow.m) * double(flow.d);
  const bool flows =
      flow.blocks % threads == 0 || flow.blocks >= 4 * threads || pairs < kWorthATeam;
  const auto run = [&](int64_t block, int team) {
    if (flow.failed[block] >= 0) return;
    const auto run_one = flow.d <= kMaxFlowD ? run_small<T> : run_large<T>;
    if (const int64_t stopped = run_one(flow, block, team))
      flow.failed[block] = flow.first_step + stopped;
  };
  if (flows) {
    parallel_for(flow.blocks, threads, [&](int64_t block, int) { run(block, 1); });
  } else {
    for (int64_t block = 0; block < flow.blocks; ++block) run(block, threads);
  }
}

template <class T>
void flow_update(const Update<T>& a) {
  const int64_t rows = 64, parts = (a.n + rows - 1) / rows;
  const bool small = double(a.blocks) * double(a.n) * double(a.d) < kWorthATeam;
  parallel_for(a.blocks * parts, small ? 1 : a.threads, [&](int64_t item, int) {
    const int64_t block = item / parts, end = std::min((item % parts + 1) * rows, a.n);
    const T noise = a.noise ? *a.noise.at(0, block) : T(0);
    const Stream stream = {a.seed, uint32_t(a.first_flow + block), uint32_t(a.step)};
    for (int64_t i = item % parts * rows; i < end; ++i) {
      T* z = a.z.block(block) + i * a.d;
      T* v = a.velocity ? a.velocity.block(block) + i * a.d : nullptr;
      const Motion<T> motion(a.g.block(block) + i * a.d, v, a.d, *a.step_size.at(0, block),
                             a.momentum, a.max_norm);
      for (int64_t k = 0; k < a.d; ++k) z[k] = motion.from(z[k], k);
      if (noise != T(0)) add_noise(z, a.d, noise, stream, i);
    }
  });
}

template void flow(const Flow<float>&);
template void flow(const Flow<double>&);
template void flow_update(const Update<float>&);
template void flow_update(const Update<double>&);

}  // namespace dmmd::cpu
