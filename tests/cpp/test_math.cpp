// The vector exp, log, log1p and powers against long double, over their whole range.
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <limits>

#include "../../csrc/cpu/math.h"

namespace {

using namespace dmmd::cpu::DMMD_ISA;

int failures = 0;

template <class T>
double ulps(T got, long double exact) {
  if (std::isnan(got) || std::isnan(exact)) return std::isnan(got) == std::isnan(exact) ? 0 : 1e30;
  const T rounded = T(exact);
  if (std::isinf(rounded) || std::isinf(got)) return got == rounded ? 0 : 1e30;
  const T size = std::fabs(rounded);
  const long double ulp =
      std::nextafter(size, std::numeric_limits<T>::infinity()) - (long double)size;
  return double(std::fabs(got - exact) / ulp);
}

/// The largest error over points spread evenly between from and to, and the ends of the range.
template <class T, class Function, class Exact>
void sweep(const char* name, long double from, long double to, bool by_exponent, double bound,
           Function function, Exact exact) {
  constexpr int kPoints = 400000;
  double worst = 0;
  T at = 0;
  for (int i = 0; i <= kPoints; ++i) {
    const long double u = (long double)(i) / kPoints;
    const T x = T(by_exponent ? from * std::pow(to / from, u) : from + (to - from) * u);
    const T got = function(Vec<T>(x)).v[0];
    const double error = ulps(got, exact((long double)x));
    if (error > worst) worst = error, at = x;
  }
  std::printf("%-12s %zu bits: %.3f ulp at %.9g\n", name, 8 * sizeof(T), worst, double(at));
  if (!(worst <= bound)) std::printf("FAIL %s: more than %.1f ulp\n", name, bound), ++failures;
}

template <class T>
void expect(const char* what, T got, T expected) {
  if (got == expected || (std::isnan(got) && std::isnan(expected))) return;
  std::printf("FAIL %s: got %g, expected %g\n", what, double(got), double(expected));
  ++failures;
}

template <class T>
void test() {
  using L = std::numeric_limits<T>;
  const T inf = L::infinity(), nan = L::quiet_NaN();
  const long double lowest = std::log((long double)L::denorm_min());
  const long double highest = std::log((long double)L::max());
  const auto one = [](auto f) { return [f](Vec<T> x) { return f(x); }; };

  sweep<T>("exp", lowest, highest, false, 2, one([](Vec<T> x) { return exp(x); }),
           [](long double x) { return std::exp(x); });
  sweep<T>("exp near 0", -1, 1, false, 2, one([](Vec<T> x) { return exp(x); }),
           [](long double x) { return std::exp(x); });
  // Down to the smallest normal result; what follows is 0.
  sweep<T>("exp2_minus", 0, 2 - L::min_exponent - 1, false, 2,
           one([](Vec<T> x) { return exp2_minus(x); }),
           [](long double x) { return std::exp2(-x); });
  sweep<T>("exp2_minus", L::min(), 1, true, 2, one([](Vec<T> x) { return exp2_minus(x); }),
           [](long double x) { return std::exp2(-x); });
  sweep<T>("exp2_minus of x/4", 0, 4 * (2 - L::min_exponent - 1), false, 2,
           one([](Vec<T> x) { return exp2_minus(T(0.25), x); }),
           [](long double x) { return std::exp2(-x / 4); });
  sweep<T>("normal powers", 0, -L::min_exponent - 1, false, 2,
           one([](Vec<T> x) { return exp2_minus<true>(T(1), x); }),
           [](long double x) { return std::exp2(-x); });
  expect("is_normal_power", T(is_normal_power(T(-L::min_exponent - 1))), T(1));
  expect("is_normal_power", T(is_normal_power(T(-L::min_exponent + 2)) || is_normal_power(nan)),
         T(0));
  sweep<T>("inverse_root", L::min(), L::max(), true, 2,
           one([](Vec<T> x) { return inverse_root(x); }),
           [](long double x) { return 1 / std::sqrt(x); });
  sweep<T>("log", L::denorm_min(), L::max(), true, 2, one([](Vec<T> x) { return log(x); }),
           [](long double x) { return std::log(x); });
  sweep<T>("log near 1", 0.5, 2, false, 2, one([](Vec<T> x) { return log(x); }),
           [](long double x) { return std::log(x); });
  sweep<T>("log1p", L::min(), L::max(), true, 2, one([](Vec<T> x) { return log1p(x); }),
           [](long double x) { return std::log1p(x); });
  for (T a : {T(0.1), T(0.5), T(1), T(1.7), T(5), T(10)}) {
    const auto power = [a](long double x) { return std::pow(x, (long double)a); };
    const auto inverse = [a](long double x) { return std::exp(-(long double)a * std::log1p(x)); };
    sweep<T>(
        "pow1p", L::min(), L::max(), true, a + 3, [a](Vec<T> t) { return pow1p(t, Vec<T>(-a)); },
        inverse);
    if (a < 2)
      sweep<T>(
          "pow", L::denorm_min(), L::max(), true, a + 3,
          [a](Vec<T> u) { return pow(u, Vec<T>(a)); }, power);
    expect("pow1p(inf)", pow1p(Vec<T>(inf), Vec<T>(-a)).v[0], T(0));
    expect("pow1p(nan)", pow1p(Vec<T>(nan), Vec<T>(-a)).v[0], nan);
    expect("pow(inf)", pow(Vec<T>(inf), Vec<T>(a)).v[0], inf);
  }
  expect("exp(0)", exp(Vec<T>(0)).v[0], T(1));
  expect("exp(-inf)", exp(Vec<T>(-inf)).v[0], T(0));
  expect("exp(inf)", exp(Vec<T>(inf)).v[0], inf);
  expect("exp(nan)", exp(Vec<T>(nan)).v[0], nan);
  expect("exp2_minus(0)", exp2_minus(Vec<T>(0)).v[0], T(1));
  expect("exp2_minus(large)", exp2_minus(Vec<T>(1e30)).v[0], T(0));
  expect("exp2_minus(tiny inf)", T(exp2_minus(L::denorm_min(), Vec<T>(inf)).v[0] > T(0.999)), T(1));
  expect("exp2_minus(inf)", exp2_minus(Vec<T>(inf)).v[0], T(0));
  expect("exp2_minus(nan)", exp2_minus(Vec<T>(nan)).v[0], nan);
  expect("inverse_root(0)", inverse_root(Vec<T>(0)).v[0], T(0));
  expect("inverse_root(inf)", inverse_root(Vec<T>(inf)).v[0], T(0));
  expect("inverse_root(nan)", inverse_root(Vec<T>(nan)).v[0], nan);
  expect("log(nan)", log(Vec<T>(nan)).v[0], nan);
  expect("log1p(0)", log1p(Vec<T>(0)).v[0], T(0));
  expect("log1p(inf)", log1p(Vec<T>(inf)).v[0], inf);
}

}  // namespace

int main() {
#ifdef __AVX512F__
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw")) {
    std::printf("this processor has no AVX-512\n");
    return 77;  // ctest calls it skipped
  }
#endif
  test<float>();
  test<double>();
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures != 0;
}
