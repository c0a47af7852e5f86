// csrc from C++ alone, proof that it needs neither Python nor torch: every function against its
// formula in long double, on every instruction set of the machine, with any number of threads.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "instruction_sets.h"
#include "naive.h"

using namespace dmmd;

namespace {

int failures = 0;

struct NamedKernel {
  const char* name;
  std::vector<Component> components;
  std::vector<double> params;
};

const NamedKernel kKernels[] = {
    {"gaussian", {{Profile::gaussian}}, {1.5, 0.4, 0}},
    {"rational_quadratic", {{Profile::rational_quadratic}}, {0.7, 0.5, 0.8}},
    {"imq", {{Profile::imq}}, {2, 0.3, 0}},
    {"laplace", {{Profile::laplace}}, {1, 0.7, 0}},
    {"matern32", {{Profile::matern32}}, {1, 0.6, 0}},
    {"matern52", {{Profile::matern52}}, {0.8, 1.1, 0}},
    {"energy", {{Profile::energy}}, {1, 1, 1}},
    {"energy of 1.5", {{Profile::energy}}, {1, 1, 1.5}},
    {"square_distance", {{Profile::square_distance}}, {1, 1, 0}},
    {"polynomial1", {{Profile::polynomial, 1}}, {0.5, 0.2, 1}},
    {"polynomial3", {{Profile::polynomial, 3}}, {0.5, 0.2, 1}},
    {"mixture",
     {{Profile::gaussian}, {Profile::rational_quadratic}, {Profile::laplace}},
     {1, 0.1, 0, 0.5, 0.3, 2.2, 0.3, 0.8, 0}},
    {"gaussians",
     {{Profile::gaussian}, {Profile::gaussian}, {Profile::gaussian}, {Profile::gaussian}},
     {1, 0.8, 0, 0.5, 0.05, 0, 0.3, 0.2, 0, 2, 0.7, 0}},
    {"halves", {{Profile::imq}, {Profile::rational_quadratic}}, {1, 0.8, 0, 0.5, 0.05, 2.5}},
    {"polynomials",
     {{Profile::polynomial, 2}, {Profile::polynomial, 4}},
     {1, 0.1, 0.3, 0.5, 0.2, 1}},
};

struct Shape {
  int64_t n, m, d, p, blocks;
};

constexpr Shape kBeyondTheL2 = {130, 35, 513, 1, 1}, kSymmetricBeyondTheL2 = {98, 98, 513, 2, 1};

/// Random arrays of one problem; the points share the first ones, so some pairs coincide.
template <class T>
struct Data {
  Shape shape;
  const NamedKernel& kernel;
  std::vector<T> z, x, v, w, zt, xt, params, params_t;

  Data(Shape s, const NamedKernel& kernel) : shape(s), kernel(kernel) {
    std::mt19937 random(unsigned(s.n * 31 + s.m * 7 + s.d));
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<T>& to, int64_t count) {
      // One element of padding in front: data need not be aligned to more than an element.
      for (int64_t i = 0; i <= count; ++i) to.push_back(T(normal(random)));
    };
    fill(z, s.blocks * s.n * s.d);
    fill(x, s.blocks * s.m * s.d);
    fill(v, s.n * s.p);  // shared by all blocks
    fill(w, s.blocks * s.m * s.p);
    fill(zt, s.blocks * s.n * s.d);
    fill(xt, s.m * s.d);
    for (int64_t i = 0; i < std::min(s.n, s.m) / 2 * s.d; ++i) x[1 + i] = z[1 + i];
    fill(params_t, int64_t(kernel.params.size()));
    params.assign(kernel.params.begin(), kernel.params.end());
  }

  Problem<T> problem(bool with_v, bool skip, int threads) const {
    Problem<T> a;
    a.blocks = shape.blocks, a.n = shape.n, a.m = shape.m, a.d = shape.d, a.p = shape.p;
    a.z = {z.data() + 1, shape.n * shape.d};
    a.x = {x.data() + 1, shape.m * shape.d};
    if (with_v) a.v = {v.data() + 1, 0};
    a.w = {w.data() + 1, shape.m * shape.p};
    a.params = {params.data(), 0};
    a.kernel = kernel.components.data();
    a.components = int64_t(kernel.components.size());
    a.skip_diagonal = skip;
    a.threads = threads;
    return a;
  }

  cpu::Direction<T> direction(int which) const {
    cpu::Direction<T> to;
    if (which & 1) to.z = {zt.data() + 1, shape.n * shape.d};
    if (which & 2) to.x = {xt.data() + 1, 0};
    if (which & 4) to.params = {params_t.data() + 1, 0};
    return to;
  }
};

/// got against exact, in units of the rounding error of a sum of `terms` of that size.
template <class T>
void expect_near(const std::string& what, const std::vector<T>& got,
                 const std::vector<long double>& exact, double terms) {
  long double size = 0, worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    size = std::max(size, std::fabs(exact[i]));
    worst = std::max(worst, std::fabs(got[i] - exact[i]));
    if (std::isnan(got[i])) worst = INFINITY;
  }
  const long double bound = 64 * std::numeric_limits<T>::epsilon() * (size + std::sqrt(terms));
  if (got.size() == exact.size() && worst <= bound) return;
  std::printf("FAIL %s: off by %Lg, bound %Lg\n", what.c_str(), worst, bound);
  ++failures;
}

/// The problem of the rows alone, with themselves.
template <class T>
Problem<T> symmetric(Problem<T> a) {
  a.x = {}, a.m = 0, a.w = a.v;
  return a;
}

/// Every result of the library, NaN where it was not written.
template <class T>
naive::Results<T> run(const Problem<T>& a, const cpu::Direction<T>& to) {
  naive::Results<T> out;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (auto* f : {&out.f, &out.ft}) f->assign(a.blocks * a.n * a.p, nan);
  for (auto* g : {&out.g, &out.gt, &out.gt_alone}) g->assign(a.blocks * a.n * a.d, nan);
  for (auto* q : {&out.q, &out.qt}) q->assign(a.blocks * 3 * a.components, nan);
  out.k.assign(a.blocks * a.n * a.m, nan);
  out.form.assign(a.blocks, nan);
  out.form_g = out.g;
  out.form_q = out.q;
  cpu::potential(a, out.f.data());
  cpu::potential_grad(a, out.g.data());
  cpu::params_grad(a, out.q.data());
  cpu::tangents(a, to, out.ft.data(), out.gt.data(), out.qt.data());
  cpu::tangents<T>(a, to, nullptr, out.gt_alone.data(), nullptr);
  cpu::kernel_matrix(a, out.k.data());
  if (a.v)
    cpu::quadratic_form(symmetric(a), out.form.data(), out.form_g.data(), a.n, out.form_q.data());
  return out;
}

/// The gradient of a quadratic form in some of its points alone.
template <class T>
void expect_moving(const std::string& what, const Problem<T>& a,
                   const std::vector<long double>& whole, double scale) {
  for (const int64_t moving : {int64_t(0), (a.n + 1) / 3, (a.n + 1) / 2}) {
    std::vector<T> value(a.blocks), g(a.blocks * moving * a.d, T(NAN));
    std::vector<long double> exact;
    for (int64_t block = 0; block < a.blocks; ++block) {
      const auto first = whole.begin() + block * a.n * a.d;
      exact.insert(exact.end(), first, first + moving * a.d);
    }
    cpu::quadratic_form(symmetric(a), value.data(), g.data(), moving);
    expect_near(what + "quadratic_form g of " + std::to_string(moving), g, exact, scale * a.n);
  }
}

template <class T>
void expect_form(const std::string& what, const Problem<T>& a, const naive::Results<T>& got,
                 const naive::Results<long double>& exact, double scale) {
  const double n = double(a.n);
  std::vector<long double> twice = exact.g;  // z is both the rows and the columns
  for (long double& g : twice) g *= 2;
  expect_near(what + "quadratic_form", got.form, exact.form, scale * n * n);
  expect_near(what + "quadratic_form g", got.form_g, twice, scale * n);
  expect_near(what + "quadratic_form q", got.form_q, exact.q, scale * n * n);
  std::vector<T> value(a.blocks);
  cpu::quadratic_form<T>(symmetric(a), value.data(), nullptr, 0);
  expect_near(what + "quadratic_form alone", value, exact.form, scale * n * n);
  expect_moving(what, a, twice, scale);
}

template <class T>
void expect_formulas(const std::string& what, const Problem<T>& a, const naive::Results<T>& got,
                     const naive::Results<long double>& exact, double scale) {
  expect_near(what + "potential", got.f, exact.f, scale * double(a.m));
  expect_near(what + "potential_grad", got.g, exact.g, scale * double(a.m));
  expect_near(what + "params_grad", got.q, exact.q, scale * double(a.n * a.m));
  expect_near(what + "tangents f", got.ft, exact.ft, scale * double(a.m));
  // Second derivatives grow without bound where points come close.
  expect_near(what + "tangents g", got.gt, exact.gt, 100 * scale * double(a.m));
  expect_near(what + "tangents, g alone", got.gt_alone, exact.gt, 100 * scale * double(a.m));
  expect_near(what + "tangents q", got.qt, exact.qt, scale * double(a.n * a.m));
  expect_near(what + "kernel_matrix", got.k, exact.k, scale);
  if (a.p != 1 || a.v || a.skip_diagonal) return;
  std::vector<T> f(got.f.size()), both(got.g.size());
  cpu::potential_and_grad(a, f.data(), both.data());
  expect_near(what + "potential_and_grad f", f, exact.f, scale * double(a.m));
  expect_near(what + "potential_and_grad g", both, exact.g, scale * double(a.m));
}

template <class T>
void test_formulas(Shape shape, const NamedKernel& kernel, int threads) {
  const Data<T> data(shape, kernel);
  const bool skip = shape.n == shape.m && shape.d % 2;
  const Problem<T> a = data.problem(shape.p != 1 || shape.d % 3, skip, threads);
  const cpu::Direction<T> to = data.direction(int(shape.n % 8));
  if (naive::kTooSlow) return for_instruction_sets([&] { run(a, to); });
  const auto exact = naive::all<long double>(a, to);
  Problem<T> itself = symmetric(a);
  itself.x = a.z, itself.m = a.n;
  const auto form = a.v ? naive::all<long double>(itself) : naive::Results<long double>{};
  const double scale = kernel.components[0].profile == Profile::polynomial ? 1e4 : 1e2;
  for_instruction_sets([&] {
    const std::string what = std::string(cpu::instruction_set()) + " " + kernel.name +
                             " n=" + std::to_string(a.n) + " m=" + std::to_string(a.m) +
                             " d=" + std::to_string(a.d) + " p=" + std::to_string(a.p) + " " +
                             std::to_string(8 * sizeof(T)) + " bits: ";
    const auto got = run(a, to);
    expect_formulas(what, a, got, exact, scale);
    if (a.v) expect_form(what, a, got, form, scale);
  });
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Results are bitwise equal for any number of threads.
template <class T>
void test_threads(Shape shape) {
  const Data<T> data(shape, kKernels[9]);
  const auto one = run(data.problem(true, false, 1), data.direction(7));
  for (int threads : {2, 3, 8}) {
    const auto many = run(data.problem(true, false, threads), data.direction(7));
    if (same(one.f, many.f) && same(one.g, many.g) && same(one.q, many.q) &&
        same(one.ft, many.ft) && same(one.gt, many.gt) && same(one.gt_alone, many.gt_alone) &&
        same(one.qt, many.qt) && same(one.form, many.form) && same(one.form_g, many.form_g) &&
        same(one.form_q, many.form_q) && same(one.k, many.k))
      continue;
    std::printf("FAIL %d threads and one differ\n", threads);
    ++failures;
  }
}

/// NaN in z_i poisons row i alone; NaN in x poisons every row.
template <class T>
void test_nan(const NamedKernel& kernel) {
  for (const bool in_x : {false, true}) {
    Data<T> data({9, 40, 3, 1, 1}, kernel);
    (in_x ? data.x : data.z)[1 + 3 * 4] = std::numeric_limits<T>::quiet_NaN();
    std::vector<T> f(9), g(27);
    cpu::potential(data.problem(false, false, 1), f.data());
    cpu::potential_grad(data.problem(false, false, 1), g.data());
    for (int i = 0; i < 9; ++i) {
      const bool poisoned = in_x || i == 4;
      // The gradient of <z, x> does not depend on z.
      const bool constant = kernel.components[0].degree == 1;
      if (std::isnan(f[i]) == poisoned && (constant || std::isnan(g[3 * i]) == poisoned)) continue;
      std::printf("FAIL %s: NaN in %s, row %d: f = %g, g = %g\n", kernel.name, in_x ? "x" : "z", i,
                  double(f[i]), double(g[3 * i]));
      ++failures;
    }
  }
}

/// A child of fork() computes, though the threads of its parent are gone.
[[maybe_unused]] void test_fork() {
  const Data<float> data({600, 600, 3, 1, 1}, kKernels[0]);
  std::vector<float> before(600), after(600);
  cpu::potential(data.problem(false, false, 2), before.data());
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a child that hangs is killed
    cpu::potential(data.problem(false, false, 2), after.data());
    _exit(same(before, after) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  std::printf("FAIL a forked child hangs or differs\n");
  ++failures;
}

void test_all_formulas() {
  const Shape shapes[] = {{1, 1, 1, 1, 1},    {3, 17, 2, 1, 1},    {17, 17, 3, 1, 2},
                          {0, 5, 2, 1, 1},    {5, 0, 2, 1, 1},     {6, 6, 0, 1, 1},
                          {7, 300, 5, 3, 1},  {130, 130, 4, 1, 1}, {69, 150, 70, 1, 1},
                          {12, 33, 17, 2, 3}, {4, 600, 3, 1, 1},   {5, 9, 2, 0, 1},
                          {70, 70, 7, 2, 1},  {210, 210, 2, 2, 1}, {150, 150, 13, 2, 1},
                          {100, 50, 9, 1, 2}, {200, 210, 33, 9, 1}};
  for (const NamedKernel& kernel : kKernels) {
    for (const Shape& shape : shapes) {
      test_formulas<float>(shape, kernel, 2);
      test_formulas<double>(shape, kernel, 2);
    }
  }
  for (const Shape& shape : {kBeyondTheL2, kSymmetricBeyondTheL2}) {
    test_formulas<float>(shape, kKernels[0], 2);
    test_formulas<double>(shape, kKernels[0], 2);
  }
}

void test_all_threads() {
  test_threads<float>({200, 700, 5, 1, 1});
  test_threads<double>({5, 3000, 5, 2, 2});
  test_threads<float>({450, 700, 20, 2, 1});
  test_threads<float>(kBeyondTheL2);
  test_threads<float>(kSymmetricBeyondTheL2);
}

}  // namespace

int main() {
  test_all_formulas();
  for_instruction_sets([] {
    for (const NamedKernel& kernel : kKernels) {
      test_nan<float>(kernel);
      test_nan<double>(kernel);
    }
    test_all_threads();
    std::printf("%s: done\n", cpu::instruction_set());
  });
#ifndef __SANITIZE_THREAD__
  test_fork();
#endif
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures != 0;
}
