// Flows on a GPU: the teams of flow_field.h as blocks, clusters and grids of threads, the kernels
// that run ../flow.h with them, and their launch.
#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include <stdexcept>
#include <string>

#include "flow_field.h"

namespace dmmd::cuda {
namespace {

namespace groups = cooperative_groups;

/// What all teams have: lanes of a row are neighbours in a warp, copies go through cp.async.
struct Threads {
  int lanes;

  __device__ int64_t block_rank() const { return threadIdx.x; }
  __device__ int64_t block_size() const { return blockDim.x; }
  __device__ void block_sync() const { __syncthreads(); }
  __device__ float sum(float v) const {
    for (int far = lanes / 2; far > 0; far /= 2) v += __shfl_xor_sync(~0u, v, far);
    return v;
  }
  __device__ void copy(float* to, const float* from) const {
    __pipeline_memcpy_async(to, from, sizeof(float));
  }
  __device__ void commit() const { __pipeline_commit(); }
  __device__ void await(int newer) const {
    newer ? __pipeline_wait_prior(1) : __pipeline_wait_prior(0);
  }
  __device__ void store(float* array, int64_t at, float v) const { array[at] = v; }
};

using Flag = unsigned long long;  // a step; steps go up, and all stop at the first one raised

struct BlockTeam : Threads {
  volatile Flag* flag;  // shared

  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return blockDim.x; }
  __device__ void sync() const { __syncthreads(); }
  __device__ void raise(int64_t step) const { *flag = Flag(step); }
  __device__ bool raised(int64_t step) const { return *flag == Flag(step); }
};

#ifdef _CG_HAS_CLUSTER_GROUP
/// A cluster: every block has all points, and sends where its own go to all others.
struct ClusterTeam : Threads {
  Flag* flag;  // shared, of each block

  __device__ int64_t rank() const {
    return int64_t(groups::this_cluster().block_rank()) * blockDim.x + threadIdx.x;
  }
  __device__ int64_t size() const {
    return int64_t(groups::this_cluster().num_blocks()) * blockDim.x;
  }
  __device__ void sync() const { groups::this_cluster().sync(); }
  __device__ void raise(int64_t step) const {
    const groups::cluster_group cluster = groups::this_cluster();
    for (unsigned b = 0; b < cluster.num_blocks(); ++b)
      *static_cast<volatile Flag*>(cluster.map_shared_rank(flag, b)) = Flag(step);
  }
  __device__ bool raised(int64_t step) const {
    return *static_cast<volatile Flag*>(flag) == Flag(step);
  }
  __device__ void store(float* array, int64_t at, float v) const {
    const groups::cluster_group cluster = groups::this_cluster();
    for (unsigned b = 0; b < cluster.num_blocks(); ++b) cluster.map_shared_rank(array, b)[at] = v;
  }
};

#else
struct ClusterTeam : BlockTeam {};  // before sm_90 there are none, and no plan asks for them
#endif

/// Blocks (blockIdx.x, flow) for each flow. In one cooperative launch they wait for all blocks of
/// the grid; in a launch for each step there is nothing to wait for.
template <bool IsCooperative>
struct GridTeam : Threads {
  volatile Flag* flag;  // global, of the flow

  __device__ int64_t rank() const { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
  __device__ int64_t size() const { return int64_t(gridDim.x) * blockDim.x; }
  __device__ void sync() const {
    if constexpr (IsCooperative) groups::this_grid().sync();
  }
  __device__ void raise(int64_t step) const { *flag = Flag(step); }
  __device__ bool raised(int64_t step) const { return *flag == Flag(step); }
};

/// A flow and its kernels' components, as they travel to the device.
struct Task {
  Flow<float> flow;
  Components radial, polynomial;
  int lanes;
};

/// What a kernel of few columns copies into shared memory: x[k * count + j] of points (count, d).
template <int D>
__device__ void unpack(float* x, const float* points, int64_t count, int64_t d, int64_t rank,
                       int64_t size) {
  for (int64_t j = rank; j < count; j += size)
    for (int k = 0; k < D; ++k) x[k * count + j] = k < d ? points[j * d + k] : 0.f;
}

template <int D, class Team>
__global__ void __launch_bounds__(threads_of(D), 1) near_kernel(const __grid_constant__ Task task) {
  extern __shared__ __align__(16) char memory[];
  const Flow<float>& flow = task.flow;
  Flag* flag = reinterpret_cast<Flag*>(memory);
  float* now = reinterpret_cast<float*>(memory + 16);
  float* data = now + 2 * D * flow.n;
  Team team;
  team.lanes = task.lanes;
  team.flag = flag;
  const int64_t block = blockIdx.y;
  if (flow.failed[block] >= 0) return;
  if (threadIdx.x == 0) *flag = 0;
  unpack<D>(now, flow.x.block(block), flow.n, flow.d, threadIdx.x, blockDim.x);
  unpack<D>(data, flow.y.block(block), flow.m, flow.d, threadIdx.x, blockDim.x);
  for (int64_t j = threadIdx.x; j < flow.m; j += blockDim.x)
    data[D * flow.m + j] = flow.w.block(block)[j];
  team.sync();
  Field<D> field{flow,
                 task.radial,
                 task.polynomial,
                 {now, now + D * flow.n, data, data + D * flow.m, nullptr},
                 block,
                 task.lanes};
  const int64_t end = advance(team, field, flow, block);
  for (int64_t i = team.rank(); i < flow.n; i += team.size())
    for (int k = 0; k < D; ++k)
      if (k < flow.d) flow.x.block(block)[i * flow.d + k] = field.position(i, k);
  if (end && team.rank() == 0) flow.failed[block] = flow.first_step + end;
  team.sync();  // no block leaves while others may still write to it
}

/// Memory of a flow in `grid` and `steps`: a flag, two buffers of particles, data, weights.
template <int D>
struct Workspace {
  Flag* flag;
  float *x[2], *data;

  __device__ Workspace(void* memory, const Flow<float>& flow, int64_t block) {
    const int64_t floats = cloud_floats(flow.n, flow.m, D);
    char* own = static_cast<char*>(memory) + block * (16 + (floats * 4 + 15) / 16 * 16);
    flag = reinterpret_cast<Flag*>(own);
    x[0] = reinterpret_cast<float*>(own + 16);
    x[1] = x[0] + D * flow.n;
    data = x[1] + D * flow.n;
  }
};

template <int D>
__global__ void open_kernel(const __grid_constant__ Task task, void* memory) {
  const Flow<float>& flow = task.flow;
  const int64_t block = blockIdx.y;
  const int64_t rank = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t size = int64_t(gridDim.x) * blockDim.x;
  const Workspace<D> own(memory, flow, block);
  if (rank == 0) *own.flag = 0;
  unpack<D>(own.x[0], flow.x.block(block), flow.n, flow.d, rank, size);
  unpack<D>(own.data, flow.y.block(block), flow.m, flow.d, rank, size);
  for (int64_t j = rank; j < flow.m; j += size) own.data[D * flow.m + j] = flow.w.block(block)[j];
}

/// All steps of a cooperative launch, or step `first` alone.
template <int D, bool IsCooperative>
__global__ void __launch_bounds__(threads_of(D), 1)
    far_kernel(const __grid_constant__ Task task, void* memory, int64_t first) {
  extern __shared__ __align__(16) char shared[];
  const Flow<float>& flow = task.flow;
  const int64_t block = blockIdx.y;
  const Workspace<D> own(memory, flow, block);
  GridTeam<IsCooperative> team;
  team.lanes = task.lanes;
  team.flag = own.flag;
  Field<D> field{flow,
                 task.radial,
                 task.polynomial,
                 {own.x[first % 2], own.x[1 - first % 2], own.data, own.data + D * flow.m,
                  reinterpret_cast<float*>(shared)},
                 block,
                 task.lanes};
  const bool is_over = flow.failed[block] >= 0 || (*team.flag && *team.flag <= Flag(first));
  int64_t done = 0;
  if constexpr (IsCooperative) {
    if (!is_over) done = advance(team, field, flow, block);
    // All blocks of the grid wait for one another at every step, those of ended flows too.
    for (int64_t step = is_over ? 0 : done ? done : flow.steps; step < flow.steps; ++step)
      team.sync();
  } else if (!is_over) {
    step_once(team, field, flow, block, first);
  }
}

template <int D>
__global__ void close_kernel(const __grid_constant__ Task task, void* memory) {
  const Flow<float>& flow = task.flow;
  const int64_t block = blockIdx.y;
  if (flow.failed[block] >= 0) return;
  const Workspace<D> own(memory, flow, block);
  const int64_t end = int64_t(*own.flag);
  const float* x = own.x[(end ? end - 1 : flow.steps) % 2];
  const int64_t size = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < flow.n; i += size)
    for (int k = 0; k < D; ++k)
      if (k < flow.d) flow.x.block(block)[i * flow.d + k] = x[k * flow.n + i];
}

template <int D>
__global__ void fail_kernel(const __grid_constant__ Task task, void* memory) {
  const Flow<float>& flow = task.flow;
  for (int64_t block = threadIdx.x; block < flow.blocks; block += blockDim.x) {
    const int64_t end = int64_t(*Workspace<D>(memory, flow, block).flag);
    if (flow.failed[block] < 0 && end) flow.failed[block] = flow.first_step + end;
  }
}

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("dmmd::cuda::flow: ") + cudaGetErrorString(status));
}

Components components(const ScheduledKernel<float>& kernel) {
  if (kernel.components > kMaxFlowComponents)
    throw std::invalid_argument("dmmd::cuda::flow: a kernel of more than 16 components");
  Components own{};
  std::copy_n(kernel.kernel, kernel.components, own.of);
  own.count = int(kernel.components);
  return own;
}

Device device() {
  int id, processors, shared, major, cooperative;
  check(cudaGetDevice(&id));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, id));
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, id));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id));
  check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, id));
  return {processors, shared, major >= 9, cooperative != 0};
}

/// Launches a kernel of any kind.
template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, const Plan& plan, cudaStream_t stream, int cluster,
            bool cooperative, Arguments... arguments) {
  if (plan.shared > (48 << 10))
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(plan.shared)));
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(plan.threads));
  config.dynamicSmemBytes = size_t(plan.shared);
  config.stream = stream;
  config.attrs = attributes;
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {unsigned(cluster), 1, 1};
  }
  if (cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
  check(cudaGetLastError());
}

template <int D>
void run(const Task& task, const Plan& plan, void* memory, cudaStream_t stream) {
  const dim3 grid(unsigned(plan.blocks_per_flow), unsigned(task.flow.blocks));
  const int cluster = int(plan.blocks_per_flow);
  if (plan.way == Way::block)
    return launch(near_kernel<D, BlockTeam>, grid, plan, stream, 1, false, task);
  if (plan.way == Way::cluster)
    return launch(near_kernel<D, ClusterTeam>, grid, plan, stream, cluster, false, task);
  launch(open_kernel<D>, grid, plan, stream, 1, false, task, memory);
  if (plan.way == Way::grid) {
    launch(far_kernel<D, true>, grid, plan, stream, 1, true, task, memory, int64_t(0));
  } else {
    for (int64_t step = 0; step < task.flow.steps; ++step)
      launch(far_kernel<D, false>, grid, plan, stream, 1, false, task, memory, step);
  }
  launch(close_kernel<D>, grid, plan, stream, 1, false, task, memory);
  launch(fail_kernel<D>, dim3(1), plan, stream, 1, false, task, memory);
}

}  // namespace

bool built() { return true; }

int64_t flow_workspace(const Flow<float>& flow) {
  return flow.blocks * (16 + (cloud_floats(flow.n, flow.m, flow.d) * 4 + 15) / 16 * 16);
}

const char* flow_plan(const Flow<float>& flow) {
  return kWayNames[int(plan_flow(flow.blocks, flow.n, flow.m, flow.d, device()).way)];
}

void flow(const Flow<float>& flow, void* workspace, void* stream) {
  if (flow.blocks == 0 || flow.n == 0 || flow.d == 0 || flow.steps == 0) return;
  if (flow.d > kMaxFlowD || flow.blocks > 65535)
    throw std::invalid_argument("dmmd::cuda::flow: more than 32 coordinates or 65535 flows");
  const Plan plan = plan_flow(flow.blocks, flow.n, flow.m, flow.d, device());
  const Task task = {flow, components(flow.radial), components(flow.polynomial), int(plan.lanes)};
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  switch (padded_d(flow.d)) {
    case 2:
      return run<2>(task, plan, workspace, on);
    case 4:
      return run<4>(task, plan, workspace, on);
    case 8:
      return run<8>(task, plan, workspace, on);
    case 16:
      return run<16>(task, plan, workspace, on);
    default:
      return run<32>(task, plan, workspace, on);
  }
}

}  // namespace dmmd::cuda
