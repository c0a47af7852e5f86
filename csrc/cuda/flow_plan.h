// How a flow runs on a GPU, from sizes alone: a pure function, tested without a GPU.
#pragma once

#include <algorithm>

#include "../dmmd.h"

namespace dmmd::cuda {

/// What the device offers.
struct Device {
  int64_t processors = 1;
  int64_t shared = 48 << 10;  // bytes a block may have
  bool has_clusters = false, is_cooperative = false;
};

enum class Way {
  block,    // a flow in each block, all steps in one launch, particles and data in shared memory
  cluster,  // as block, with the rows spread over a cluster, each block of which has all points
  grid,     // points in global memory, tiles of them in shared memory, one cooperative launch
  steps,    // as grid, a launch for each step
};

constexpr const char* kWayNames[] = {"block", "cluster", "grid", "steps"};

struct Plan {
  Way way;
  int64_t threads;  // of a block
  int64_t lanes;    // threads that share a row, a power of two up to a warp
  int64_t blocks_per_flow;
  int64_t shared;  // bytes of a block
};

constexpr int64_t kTile = 256;  // columns in shared memory at a time, for grid and steps
constexpr int64_t kMaxCluster = 8;

/// Coordinates that are computed for d of them: few sizes, since each is compiled for every GPU.
constexpr int64_t padded_d(int64_t d) {
  return d <= 2 ? 2 : d <= 4 ? 4 : d <= 8 ? 8 : d <= 16 ? 16 : 32;
}

/// Threads of a block: as many as leave a thread the registers that it wants.
constexpr int64_t threads_of(int64_t d) { return padded_d(d) > 8 ? 256 : 512; }

/// Floats of two buffers of particles, and of data with its weights.
constexpr int64_t cloud_floats(int64_t n, int64_t m, int64_t d) {
  return 2 * padded_d(d) * n + (padded_d(d) + 1) * m;
}

inline Plan plan_flow(int64_t flows, int64_t n, int64_t m, int64_t d, const Device& device) {
  Plan plan = {Way::steps, threads_of(d), 1, 1, 0};
  const int64_t all_points = int64_t(sizeof(float)) * cloud_floats(n, m, d) + 16;
  const int64_t idle = std::max<int64_t>(device.processors / std::max<int64_t>(flows, 1), 1);
  if (all_points <= device.shared) {
    plan.way = Way::block;
    plan.shared = all_points;
    // More blocks for a flow where there are idle processors and rows that are worth it.
    while (device.has_clusters && plan.blocks_per_flow < kMaxCluster &&
           2 * plan.blocks_per_flow <= idle && n * (n + m) > 40000 * plan.blocks_per_flow)
      plan.blocks_per_flow *= 2;
    if (plan.blocks_per_flow > 1) plan.way = Way::cluster;
  } else {
    plan.shared = 2 * int64_t(sizeof(float)) * kTile * (padded_d(d) + 1);
    const int64_t most = (n + 31) / 32;  // of a flow's rows, a warp of threads for each 32 at least
    plan.blocks_per_flow = std::clamp<int64_t>(most, 1, idle);
    if (device.is_cooperative && flows * plan.blocks_per_flow <= device.processors)
      plan.way = Way::grid;
  }
  const int64_t rows = (n + plan.blocks_per_flow - 1) / plan.blocks_per_flow;
  while (plan.lanes < 32 && 2 * plan.lanes * rows <= plan.threads) plan.lanes *= 2;
  return plan;
}

}  // namespace dmmd::cuda
