// CUDA potential and its gradient, for radial kernels in float32 and one right-hand side.
//
// A block of threads owns kRows rows of z, one per thread, and streams x past them in tiles in
// shared memory, kSlice coordinates at a time, so any d runs. Distances are summed from
// differences. Sums over x are kept per tile in float and added up by two-sums, so that they stay
// accurate over millions of columns. Columns beyond m enter with weight zero.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "../profile.h"

namespace dmmd::cuda {
namespace {

constexpr int kRows = 128;       // threads of a block, rows of z
constexpr int kColumns = 32;     // points of x in a tile
constexpr int kSlice = 16;       // coordinates in shared memory at once
constexpr int kComponents = 16;  // of a kernel, at most
constexpr int64_t kMaxBlocks = 65535;

struct Components {
  Component of[kComponents];
  int count;
};

__device__ const float* of_block(Batched<const float> array, int64_t block) {
  return array.data + block * array.stride;
}

/// A sum of floats with its rounding error carried along.
struct Sum {
  float high = 0.f, low = 0.f;

  __device__ void add(float a) {
    const float s = high + a, back = s - high;
    low += (high - (s - back)) + (a - back);
    high = s;
  }
  __device__ float value() const { return high + low; }
};

/// psi and psi' of one component at t.
__device__ Jet<float> jet(Component component, float t, float a) {
  switch (component.profile) {
    case Profile::gaussian:
      return Shape<Profile::gaussian>::jet(t, a, 0);
    case Profile::rational_quadratic:
      return Shape<Profile::rational_quadratic>::jet(t, a, 0);
    case Profile::imq:
      return Shape<Profile::imq>::jet(t, a, 0);
    case Profile::laplace:
      return Shape<Profile::laplace>::jet(t, a, 0);
    case Profile::energy:
      return a == 1.f ? Shape<Profile::distance>::jet(t, a, 0)
                      : Shape<Profile::energy>::jet(t, a, 0);
    default:
      return Shape<Profile::square_distance>::jet(t, a, 0);
  }
}

/// lambda psi, or lambda scale psi', summed over the components.
template <bool Slope>
__device__ float evaluate(const Components& kernel, const float* params, float q) {
  float total = 0.f;
  for (int l = 0; l < kernel.count; ++l) {
    const float lambda = params[3 * l], scale = params[3 * l + 1];
    const Jet<float> j = jet(kernel.of[l], scale * q, params[3 * l + 2]);
    total += Slope ? lambda * scale * j.d : lambda * j.psi;
  }
  return total;
}

/// Loads coordinates [k, k + kSlice) of columns [start, start + kColumns); zeros beyond d, the
/// last point beyond m.
__device__ void load_slice(float (&tile)[kColumns][kSlice], const float* x, int64_t start,
                           int64_t m, int64_t k, int64_t d) {
  __syncthreads();  // the slice before has been read
  for (int i = threadIdx.x; i < kColumns * kSlice; i += kRows) {
    const int64_t j = min(start + i / kSlice, m - 1), c = k + i % kSlice;
    tile[i / kSlice][i % kSlice] = c < d ? x[j * d + c] : 0.f;
  }
  __syncthreads();
}

/// q[j] = |z - x_j|^2 for the columns of a tile.
__device__ void distances(float (&q)[kColumns], float (&tile)[kColumns][kSlice], const float* z,
                          const float* x, int64_t start, int64_t m, int64_t d) {
  for (int j = 0; j < kColumns; ++j) q[j] = 0.f;
  for (int64_t k = 0; k < d; k += kSlice) {
    load_slice(tile, x, start, m, k, d);
    float zk[kSlice];
    for (int c = 0; c < kSlice; ++c) zk[c] = k + c < d ? z[k + c] : 0.f;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int c = 0; c < kSlice; ++c) {
        const float diff = zk[c] - tile[j][c];
        q[j] += diff * diff;
      }
    }
  }
}

/// Makes s[j] = w_j K (or its slope) of q[j], 0 for columns that count for nothing.
template <bool Slope>
__device__ void weigh(float (&q)[kColumns], const Problem<float>& a, const Components& kernel,
                      int64_t block, int64_t row, int64_t start) {
  const float* params = of_block(a.params, block);
  const float* w = of_block(a.w, block);
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const int64_t column = start + j;
    const bool counts = column < a.m && !(a.skip_diagonal && column == row);
    q[j] = counts ? w[column] * evaluate<Slope>(kernel, params, q[j]) : 0.f;
  }
}

__global__ void potential_kernel(Problem<float> a, Components kernel, int64_t row_blocks,
                                 float* __restrict__ f) {
  __shared__ float tile[kColumns][kSlice];
  for (int64_t item = blockIdx.x; item < a.blocks * row_blocks; item += gridDim.x) {
    const int64_t block = item / row_blocks;
    const int64_t row = item % row_blocks * kRows + threadIdx.x;
    // Rows beyond n repeat the last one and are not stored.
    const float* z = of_block(a.z, block) + min(row, a.n - 1) * a.d;
    Sum sum;
    for (int64_t start = 0; start < a.m; start += kColumns) {
      float q[kColumns];
      distances(q, tile, z, of_block(a.x, block), start, a.m, a.d);
      weigh<false>(q, a, kernel, block, row, start);
      float part = 0.f;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) part += q[j];
      sum.add(part);
    }
    if (row < a.n) f[block * a.n + row] = sum.value();
  }
}

// One slice of coordinates of the gradient is kept at a time, so for d > kSlice the distances are
// computed again for each slice: right for any d, and meant for small ones.
__global__ void potential_grad_kernel(Problem<float> a, Components kernel, int64_t row_blocks,
                                      float* __restrict__ g) {
  __shared__ float tile[kColumns][kSlice];
  for (int64_t item = blockIdx.x; item < a.blocks * row_blocks; item += gridDim.x) {
    const int64_t block = item / row_blocks;
    const int64_t row = item % row_blocks * kRows + threadIdx.x;
    const int64_t mine = min(row, a.n - 1);
    const float* z = of_block(a.z, block) + mine * a.d;
    const float v = a.v.data ? of_block(a.v, block)[mine] : 1.f;
    for (int64_t k = 0; k < a.d; k += kSlice) {
      Sum sum[kSlice];
      for (int64_t start = 0; start < a.m; start += kColumns) {
        float s[kColumns];
        distances(s, tile, z, of_block(a.x, block), start, a.m, a.d);
        weigh<true>(s, a, kernel, block, row, start);
        load_slice(tile, of_block(a.x, block), start, a.m, k, a.d);
#pragma unroll
        for (int c = 0; c < kSlice; ++c) {
          const float zc = k + c < a.d ? z[k + c] : 0.f;
          float part = 0.f;
#pragma unroll
          for (int j = 0; j < kColumns; ++j) part += s[j] * (zc - tile[j][c]);
          sum[c].add(part);
        }
      }
      for (int c = 0; c < kSlice; ++c) {
        if (row < a.n && k + c < a.d) g[(block * a.n + row) * a.d + k + c] = 2 * v * sum[c].value();
      }
    }
  }
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("dmmd::cuda::") + what + ": " + cudaGetErrorString(status));
}

Components components(const Problem<float>& a, const char* what) {
  if (a.p != 1 || a.components > kComponents || a.kernel[0].profile == Profile::polynomial)
    throw std::invalid_argument(std::string("dmmd::cuda::") + what +
                                ": p must be 1 and the kernel radial, of at most 16 components");
  Components kernel{};
  std::copy_n(a.kernel, a.components, kernel.of);
  kernel.count = int(a.components);
  return kernel;
}

template <class Launched>
void launch(Launched kernel, const Problem<float>& a, float* out, void* stream, const char* what) {
  const Components parsed = components(a, what);
  const int64_t row_blocks = (a.n + kRows - 1) / kRows;
  const int64_t items = a.blocks * row_blocks;
  if (items == 0) return;
  const unsigned blocks = unsigned(std::min(items, kMaxBlocks));
  kernel<<<blocks, kRows, 0, static_cast<cudaStream_t>(stream)>>>(a, parsed, row_blocks, out);
  check(cudaGetLastError(), what);
}

}  // namespace

bool built() { return true; }

void potential(const Problem<float>& problem, float* f, void* stream) {
  launch(potential_kernel, problem, f, stream, "potential");
}

void potential_grad(const Problem<float>& problem, float* g, void* stream) {
  launch(potential_grad_kernel, problem, g, stream, "potential_grad");
}

}  // namespace dmmd::cuda
