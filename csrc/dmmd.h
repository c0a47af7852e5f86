// The C++ API of dmmd: every function of the native library, and nothing else.
//
// Plain pointers, sizes and a CUDA stream. No Python, no torch: a C++ program can use this header
// on its own, and so does tests/cpp. Callers own all memory and have checked all shapes.
#pragma once

#include <cstdint>

namespace dmmd {

/// The shape psi(t; a) of one component K = lambda psi(scale q; a). Radial: q = |z - x|^2;
/// polynomial: q = <z, x>. Formulas: profile.h.
/// The radial ones that callers name; a new one is a word here, and the compiler asks for the rest.
#define DMMD_RADIAL_PROFILES(X) \
  X(gaussian)                   \
  X(rational_quadratic)         \
  X(imq)                        \
  X(laplace)                    \
  X(matern32)                   \
  X(matern52)                   \
  X(energy)                     \
  X(square_distance)

#define DMMD_WITH_COMMA(name) name,
enum class Profile {
  DMMD_RADIAL_PROFILES(DMMD_WITH_COMMA)  //
  polynomial,
  distance,  // energy with a = 1, which needs no power; chosen inside, callers say energy
};
#undef DMMD_WITH_COMMA

struct Component {
  Profile profile;
  int degree = 0;  // of a polynomial
};

/// One array per block of a batch, `stride` elements apart; stride 0: one array for all blocks.
template <class T>
struct Batched {
  T* data = nullptr;
  int64_t stride = 0;

  constexpr T* block(int64_t b) const { return data + b * stride; }
  constexpr explicit operator bool() const { return data != nullptr; }
};

/// Points z (n, d) and x (m, d), weights v (n, p) and w (m, p), rows contiguous, for each block.
/// K_ij = sum_l lambda_l psi_l(scale_l q_ij; a_l), c_ij = <v_i, w_j>; without v, p = 1 and v = 1.
template <class T>
struct Problem {
  int64_t blocks = 1, n = 0, m = 0, d = 0, p = 1;
  Batched<const T> z, x, v, w;
  Batched<const T> params;  // (components, 3): lambda, scale, a
  const Component* kernel = nullptr;
  int64_t components = 0;
  bool skip_diagonal = false;  // pairs i == j count for nothing
  bool high = false;           // products of points may be wrong by 2^-16, where that is faster
  int threads = 1;             // at most; results do not depend on it
};

/// Points x (n, d) with weights w (n), ones when absent, seen from an origin o (d), for each block.
template <class T>
struct Cloud {
  int64_t blocks = 1, n = 0, d = 0;
  Batched<const T> x, w, o;
  int threads = 1;  // at most; results do not depend on it
};

/// A row of numbers for each step and block, strides in elements; a stride of 0: one for all.
template <class T>
struct Scheduled {
  const T* data = nullptr;
  int64_t step_stride = 0, block_stride = 0;

  constexpr const T* at(int64_t step, int64_t block) const {
    return data + step * step_stride + block * block_stride;
  }
  constexpr explicit operator bool() const { return data != nullptr; }
};

/// A kernel whose parameters (components, 3) may change from step to step; none without components.
template <class T>
struct ScheduledKernel {
  const Component* kernel = nullptr;
  int64_t components = 0;
  Scheduled<T> params;
};

/// MMD flows of particles x (n, d) to data y (m, d) with weights w (m), one for each block:
///     f(z)  = sum_i K(z, x_i) / n - sum_j w_j K(z, y_j)
///     g_i   = grad f(x_i + noise xi_i)                xi: philox.h, of (seed, flow, i, step)
///     v_i  <- momentum v_i + g_i min(1, max_norm / |g_i|)
///     x_i  <- x_i - step_size v_i                     for all i at once, `steps` times
/// K is the sum of a radial and a polynomial kernel, of which one may be absent.
template <class T>
struct Flow {
  int64_t blocks = 1, n = 0, m = 0, d = 0, steps = 0;
  Batched<T> x, velocity;  // moved in place; without momentum no velocity is needed
  Batched<const T> y, w;
  ScheduledKernel<T> radial, polynomial;
  Scheduled<T> step_size, noise;  // a number each; without noise there is none
  T momentum = 0, max_norm = 0;   // 0: gradients of any length
  uint64_t seed = 0;
  int64_t first_flow = 0, first_step = 0;  // numbers of block 0 and step 0, in noise and `failed`
  int64_t* failed =
      nullptr;      // (blocks): the step after which a particle was not finite, from 1, or
                    // -1; a flow that fails stays where it was before and moves no more
  int threads = 1;  // at most; results do not depend on it, nor on how steps are cut
};

/// One update along given gradients g (n, d): v <- momentum v + g min(1, max_norm / |g|),
/// z <- z - step_size v + noise xi, for each block.
template <class T>
struct Update {
  int64_t blocks = 1, n = 0, d = 0;
  Batched<T> z, velocity;
  Batched<const T> g;
  Scheduled<T> step_size, noise;
  T momentum = 0, max_norm = 0;
  uint64_t seed = 0;
  int64_t first_flow = 0, step = 0;
  int threads = 1;
};

namespace cpu {

/// Moves the particles of every flow.
template <class T>
void flow(const Flow<T>& flow);

template <class T>
void flow_update(const Update<T>& update);

/// f[i,:] = sum_j w[j,:] K_ij                                                          (n, p)
template <class T>
void potential(const Problem<T>& problem, T* f);

/// g[i] = sum_j c_ij grad_z K_ij                                                       (n, d)
template <class T>
void potential_grad(const Problem<T>& problem, T* g);

/// Both in one sweep, for p = 1 and v = 1.
template <class T>
void potential_and_grad(const Problem<T>& problem, T* f, T* g);

/// q[l] = sum_ij c_ij (dK/dlambda_l, dK/dscale_l, dK/da_l)                             (L, 3)
template <class T>
void params_grad(const Problem<T>& problem, T* q);

/// The direction z' (n, d), x' (m, d), params' (L, 3) of a derivative; an absent one is zero.
template <class T>
struct Direction {
  Batched<const T> z, x, params;
};

/// The derivatives along a direction of potential f (n, p), potential_grad g (n, d) and
/// params_grad q (L, 3). f and q may be null, which takes less where params' is absent.
template <class T>
void tangents(const Problem<T>& problem, const Direction<T>& direction, T* f, T* g, T* q);

/// k[i,j] = K_ij                                                                       (n, m)
template <class T>
void kernel_matrix(const Problem<T>& problem, T* k);

/// s = sum_ij c_ij K_ij for x = z and symmetric c: the caller sets z, v, w, n, not x and m. Unless
/// null, also its gradients q in the parameters (L, 3) and g in the points that move, of z the
/// first `moving` (moving, d), all in one sweep. Fewer that move take less.
template <class T>
void quadratic_form(const Problem<T>& problem, T* s, T* g, int64_t moving, T* q = nullptr);

/// s = sum_i w_i (x_i - o)  (d)   and   q = sum_i w_i |x_i - o|^2
template <class T>
void row_sums(const Cloud<T>& cloud, T* s, T* q);

/// g[i] = w_i (a + 2 b (x_i - o)), the gradient of <a, s> + b q in x, for a (d) and a number b (n,
/// d)
template <class T>
void row_sums_grad(const Cloud<T>& cloud, Batched<const T> a, Batched<const T> b, T* g);

/// The instruction set in use, the ones this library holds (best first, separated by commas), and
/// what runs its threads.
const char* instruction_set();
const char* instruction_sets();
const char* thread_model();

/// What `high` is faster with, "AMX"; "" where it changes nothing.
const char* tile_unit_name();

/// Uses no better instruction set than `name`; false when the library or the machine lacks it.
bool limit_instruction_set(const char* name);

}  // namespace cpu

namespace cuda {

/// False when the library was built without a CUDA compiler; the functions below then throw.
bool built();

/// Coordinates, components of a kernel and steps that a call of `flow` takes at most.
constexpr int64_t kMaxFlowD = 32;
constexpr int64_t kMaxFlowComponents = 16;

/// Bytes of device memory that `flow` works in.
int64_t flow_workspace(const Flow<float>& flow);

/// How `flow` would run it on the current device: "block", "cluster", "grid" or "steps".
const char* flow_plan(const Flow<float>& flow);

/// As cpu::flow, queued on `stream` (a cudaStream_t) of the current device; every pointer but those
/// to the kernels' components is the device's. `failed` is written by then too.
void flow(const Flow<float>& flow, void* workspace, void* stream);

}  // namespace cuda
}  // namespace dmmd
