// Flows from C++ alone: Philox against its published vectors, the CPU's flows against their formula
// in long double, and the GPU's source on the host, with a team of one and of several threads.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/cpu/team.h"
#include "../../csrc/cuda/flow_field.h"
#include "instruction_sets.h"

using namespace dmmd;

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAIL %s\n", what.c_str());
  ++failures;
}

struct Kernel {
  const char* name;
  std::vector<Component> radial;
  std::vector<double> radial_params;
  std::vector<Component> polynomial;
  std::vector<double> polynomial_params;
};

const Kernel kKernels[] = {
    {"gaussian", {{Profile::gaussian}}, {1, 0.5, 0}, {}, {}},
    {"gaussians", {{Profile::gaussian}, {Profile::gaussian}}, {1, 0.5, 0, 0.3, 0.1, 0}, {}, {}},
    {"many",
     {{Profile::rational_quadratic},
      {Profile::imq},
      {Profile::laplace},
      {Profile::matern32},
      {Profile::matern52},
      {Profile::energy},
      {Profile::energy},
      {Profile::square_distance}},
     {0.7, 0.5, 0.8, 2,   0.3, 0, 1,   0.7, 0,   0.5, 0.6, 0,
      0.4, 0.9, 0,   0.1, 1,   1, 0.1, 1,   1.5, 0.1, 1,   0},
     {},
     {}},
    {"polynomial", {}, {}, {{Profile::polynomial, 3}}, {0.01, 0.2, 1}},
    {"both", {{Profile::gaussian}}, {1, 0.5, 0}, {{Profile::polynomial, 1}}, {0.1, 1, 1}},
};

struct Sizes {
  int64_t n, m, d, blocks;
};

/// A flow with everything: noise, momentum, clipping, schedules of step size and parameters.
template <class T>
struct Data {
  static constexpr int64_t kSteps = 4;
  const Kernel& kernel;
  Sizes s;
  std::vector<T> x, velocity, y, w, radial, polynomial, step_size, noise;
  std::vector<int64_t> failed;

  Data(const Kernel& kernel, Sizes s) : kernel(kernel), s(s), failed(size_t(s.blocks), -1) {
    std::mt19937 random(unsigned(s.n * 31 + s.m * 7 + s.d));
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<T>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(T(normal(random)));
    };
    fill(x, s.blocks * s.n * s.d);
    fill(y, s.m * s.d);  // shared by all blocks
    velocity.assign(x.size(), T(0));
    w.assign(size_t(s.m), T(1.5f / float(s.m)));
    for (int64_t step = 0; step < kSteps; ++step) {
      step_size.push_back(T(0.25f / float(step + 1)));
      for (double p : kernel.radial_params) radial.push_back(T(float(p * (1 + 0.1 * step))));
    }
    for (double p : kernel.polynomial_params) polynomial.push_back(T(float(p)));
    noise.assign(1, T(0.125f));
  }

  Flow<T> flow(int threads) {
    Flow<T> f;
    f.blocks = s.blocks, f.n = s.n, f.m = s.m, f.d = s.d, f.steps = kSteps;
    f.x = {x.data(), s.n * s.d}, f.velocity = {velocity.data(), s.n * s.d};
    f.y = {y.data(), 0}, f.w = {w.data(), 0};
    const int64_t row = int64_t(kernel.radial_params.size());
    f.radial = {kernel.radial.data(), int64_t(kernel.radial.size()), {radial.data(), row, 0}};
    f.polynomial = {
        kernel.polynomial.data(), int64_t(kernel.polynomial.size()), {polynomial.data(), 0, 0}};
    f.step_size = {step_size.data(), 1, 0}, f.noise = {noise.data(), 0, 0};
    f.momentum = T(0.5f), f.max_norm = T(0.75f);
    f.seed = 0x123456789abcdefull, f.first_flow = 3, f.first_step = 7;
    f.failed = failed.data(), f.threads = threads;
    return f;
  }
};

/// grad f(z) of one block at a step, pair by pair.
template <class R>
void add_pull(const ScheduledKernel<R>& kernel, int64_t step, int64_t block, R weight, const R* z,
              const R* x, int64_t d, R* g) {
  R square = 0, dot = 0;
  for (int64_t k = 0; k < d; ++k) square += (z[k] - x[k]) * (z[k] - x[k]), dot += z[k] * x[k];
  for (int64_t l = 0; l < kernel.components; ++l) {
    const R* p = kernel.params.at(step, block) + 3 * l;
    const bool radial = kernel.kernel[l].profile != Profile::polynomial;
    with_shape(kernel.kernel[l].profile, [&](auto shape) {
      const R q = radial ? square : dot;
      const R slope = weight * p[0] * p[1] * shape.jet(p[1] * q, p[2], kernel.kernel[l].degree).d;
      for (int64_t k = 0; k < d; ++k) g[k] += slope * (radial ? 2 * (z[k] - x[k]) : x[k]);
    });
  }
}

/// The formula of Flow in dmmd.h.
template <class R>
void naive(const Flow<R>& f) {
  for (int64_t b = 0; b < f.blocks; ++b) {
    for (int64_t step = 0; step < f.steps; ++step) {
      const std::vector<R> old(f.x.block(b), f.x.block(b) + f.n * f.d);
      for (int64_t i = 0; i < f.n; ++i) {
        std::vector<R> z(old.begin() + i * f.d, old.begin() + (i + 1) * f.d), g(size_t(f.d), 0);
        add_noise(z.data(), f.d, *f.noise.at(step, b), stream_of(f, b, step), i);
        for (const auto* kernel : {&f.radial, &f.polynomial}) {
          for (int64_t j = 0; j < f.n; ++j)
            add_pull(*kernel, step, b, R(1) / R(f.n), z.data(), &old[j * f.d], f.d, g.data());
          for (int64_t j = 0; j < f.m; ++j)
            add_pull(*kernel, step, b, -f.w.block(b)[j], z.data(), f.y.block(b) + j * f.d, f.d,
                     g.data());
        }
        R square = 0;
        for (R gk : g) square += gk * gk;
        const R factor = std::min(R(1), f.max_norm / std::sqrt(square));
        for (int64_t k = 0; k < f.d; ++k) {
          R& v = f.velocity.block(b)[i * f.d + k];
          v = f.momentum * v + factor * g[k];
          f.x.block(b)[i * f.d + k] = old[i * f.d + k] - *f.step_size.at(step, b) * v;
        }
      }
    }
  }
}

template <class T>
void expect_near(const std::string& what, const std::vector<T>& got,
                 const std::vector<long double>& exact) {
  long double size = 1, worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    size = std::max(size, std::fabs(exact[i]));
    const long double error = std::fabs((long double)(got[i]) - exact[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  // Particles meet, and laplace and energy have no bound on their second derivative there.
  const long double bound = 512 * std::numeric_limits<T>::epsilon() * size;
  if (!(worst <= bound)) std::printf("off by %Lg, bound %Lg: ", worst, bound);
  expect(worst <= bound, what);
}

std::string describe(const Kernel& kernel, Sizes s) {
  return std::string(kernel.name) + " n=" + std::to_string(s.n) + " m=" + std::to_string(s.m) +
         " d=" + std::to_string(s.d);
}

template <class T>
void expect_formula(const Kernel& kernel, Sizes s, const std::vector<long double>& exact) {
  std::vector<T> first;
  for (int threads : {1, 2, 5}) {
    Data<T> data(kernel, s);
    cpu::flow(data.flow(threads));
    expect_near(describe(kernel, s) + " on the CPU", data.x, exact);
    if (first.empty()) first = data.x;
    expect(std::memcmp(first.data(), data.x.data(), first.size() * sizeof(T)) == 0,
           describe(kernel, s) + ": the number of threads changes bits");
  }
}

void test_formula(const Kernel& kernel, Sizes s) {
  Data<long double> exact(kernel, s);
  naive(exact.flow(1));
  for_instruction_sets([&] {
    expect_formula<float>(kernel, s, exact.x);
    expect_formula<double>(kernel, s, exact.x);
  });
}

/// A flow whose step size is infinite at one step stays where it was before.
template <class T>
void test_failure(int64_t d) {
  Data<T> whole(kKernels[0], {40, 50, d, 2}), part(kKernels[0], {40, 50, d, 2});
  whole.step_size[2] = std::numeric_limits<T>::infinity();
  cpu::flow(whole.flow(2));
  Flow<T> two_steps = part.flow(1);
  two_steps.steps = 2;
  cpu::flow(two_steps);
  expect(whole.failed == std::vector<int64_t>{10, 10}, "failed holds the number of the step");
  expect(whole.x == part.x, "a flow that fails stays where it was");
}

/// How far points are, and so how exponentials are taken, does not change a bit of the others'
/// pull.
template <class T>
void test_reach(int64_t d) {
  Data<T> near(kKernels[0], {9, 40, d, 1}), far(kKernels[0], {9, 40, d, 1});
  near.w[7] = far.w[7] = 0;
  far.y[7 * d] = T(1e4);
  cpu::flow(near.flow(1));
  cpu::flow(far.flow(1));
  expect(near.x == far.x, "a far point without weight changes nothing");
}

// -- The GPU's source on the host -----------------------------------------------------------------

/// One block of threads.
struct HostTeam {
  cpu::Barrier& barrier;
  std::atomic<int64_t>& flag;
  std::vector<float>& scratch;
  int64_t own, count, lanes;

  int64_t rank() const { return own; }
  int64_t size() const { return count; }
  int64_t block_rank() const { return own; }
  int64_t block_size() const { return count; }
  void sync() { barrier.wait(int(count)); }
  void block_sync() { sync(); }
  void raise(int64_t step) { flag = step; }
  bool raised(int64_t step) const { return flag == step; }
  float sum(float v) {
    scratch[own] = v;
    sync();
    float total = 0;
    for (int64_t i = own / lanes * lanes; i < own / lanes * lanes + lanes; ++i) total += scratch[i];
    sync();
    return total;
  }
  void copy(float* to, const float* from) { *to = *from; }
  void commit() {}
  void await(int) {}
  void store(float* array, int64_t at, float v) { array[at] = v; }
};

cuda::Components by_value(const ScheduledKernel<float>& kernel) {
  cuda::Components own{};
  std::copy_n(kernel.kernel, kernel.components, own.of);
  own.count = int(kernel.components);
  return own;
}

/// Runs one block as flow.cu does, in `pieces` launches of one step or in one of all steps.
template <int D>
void run_on_host(const Flow<float>& flow, int64_t block, int threads, int64_t lanes, bool tiles,
                 bool step_by_step) {
  std::vector<float> near(size_t(cuda::cloud_floats(flow.n, flow.m, D))), scratch(threads);
  std::vector<float> tile(tiles ? 2 * (D + 1) * cuda::kTile : 0);
  float *now = near.data(), *data = now + 2 * D * flow.n;
  for (int64_t k = 0; k < flow.d; ++k) {
    for (int64_t i = 0; i < flow.n; ++i) now[k * flow.n + i] = flow.x.block(block)[i * flow.d + k];
    for (int64_t j = 0; j < flow.m; ++j) data[k * flow.m + j] = flow.y.block(block)[j * flow.d + k];
  }
  std::copy_n(flow.w.block(block), flow.m, data + D * flow.m);
  const cuda::Components radial = by_value(flow.radial), polynomial = by_value(flow.polynomial);
  cpu::Barrier barrier;
  std::atomic<int64_t> flag = 0;
  const auto work = [&](int rank) {
    HostTeam team{barrier, flag, scratch, rank, threads, lanes};
    cuda::Field<D> field{
        flow,       radial,
        polynomial, {now, now + D * flow.n, data, data + D * flow.m, tiles ? tile.data() : nullptr},
        block,      lanes};
    if (!step_by_step) {
      advance(team, field, flow, block);
    } else {
      for (int64_t step = 0; step < flow.steps; ++step) {
        step_once(team, field, flow, block, step);
        team.sync();
        field.turn();
      }
    }
    for (int64_t i = rank; i < flow.n; i += threads)
      for (int64_t k = 0; k < flow.d; ++k)
        flow.x.block(block)[i * flow.d + k] = field.position(i, k);
  };
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(work, rank);
  work(0);
  for (std::thread& other : others) other.join();
}

template <int D>
void test_device_source(const Kernel& kernel, Sizes s) {
  Data<long double> exact(kernel, s);
  naive(exact.flow(1));
  for (const auto& [threads, lanes] : {std::pair{1, 1}, {4, 1}, {4, 2}, {6, 2}}) {
    for (int way = 0; way < 4; ++way) {
      Data<float> data(kernel, s);
      for (int64_t block = 0; block < s.blocks; ++block)
        run_on_host<D>(data.flow(1), block, threads, lanes, way & 1, way & 2);
      expect_near(describe(kernel, s) + " by the GPU's source, threads=" + std::to_string(threads) +
                      " lanes=" + std::to_string(lanes) + " way=" + std::to_string(way),
                  data.x, exact.x);
    }
  }
}

void test_plans() {
  const cuda::Device h100 = {132, 227 << 10, true, true}, a100 = {108, 163 << 10, false, true};
  const cuda::Device old = {40, 48 << 10, false, false};
  const auto way = [](int64_t flows, int64_t n, int64_t m, int64_t d, const cuda::Device& device) {
    const cuda::Plan plan = cuda::plan_flow(flows, n, m, d, device);
    expect(plan.shared <= device.shared && plan.threads % 32 == 0 && plan.lanes <= 32,
           "a plan fits its device");
    return std::string(cuda::kWayNames[int(plan.way)]);
  };
  expect(way(1024, 200, 1000, 2, h100) == "block", "many flows: a block each");
  expect(way(1, 200, 1000, 2, h100) == "cluster", "one flow: a cluster");
  expect(way(1, 200, 1000, 2, a100) == "block", "without clusters: a block");
  expect(way(1, 50000, 50000, 2, h100) == "grid", "a large flow: the grid");
  expect(way(200, 50000, 50000, 2, h100) == "steps", "many large flows: step by step");
  expect(way(1, 50000, 50000, 2, old) == "steps", "without cooperative launch: step by step");
}

void test_philox() {
  const auto same = [](Words w, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return w.a == a && w.b == b && w.c == c && w.d == d;
  };
  expect(same(philox({0, 0, 0, 0}, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8),
         "Philox of zeros");
  const uint32_t ones = 0xffffffff;
  expect(
      same(philox({ones, ones, ones, ones}, ~0ull), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd),
      "Philox of ones");
  expect(same(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822ull),
              0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1),
         "Philox of pi");
}

}  // namespace

int main() {
  test_philox();
  test_plans();
  for (const Kernel& kernel : kKernels) {
    for (const Sizes s : {Sizes{1, 1, 1, 1},
                          {21, 33, 2, 2},
                          {5, 9, 3, 1},
                          {150, 300, 4, 1},
                          {13, 40, 6, 3},
                          {140, 30, 11, 2}})
      test_formula(kernel, s);
  }
  for_instruction_sets([] {
    for (int64_t d : {2, 9}) {
      test_failure<float>(d);
      test_failure<double>(d);
    }
    for (int64_t d : {2, 8}) {  // beyond, products of points feel where the cloud has its centre
      test_reach<float>(d);
      test_reach<double>(d);
    }
    std::printf("%s: done\n", cpu::instruction_set());
  });
  for (const Kernel& kernel : kKernels) {
    test_device_source<2>(kernel, {11, 300, 2, 2});
    test_device_source<8>(kernel, {7, 30, 5, 1});
  }
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures != 0;
}
