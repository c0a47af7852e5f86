// precision "high": products of points by bf16 tiles. No unit for them is needed: a class that does
// in plain C++ what AMX does stands in for it, and the unit itself is tested too where there is
// one.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/tile_products.h"
#include "instruction_sets.h"
#include "naive.h"

using namespace dmmd;
using namespace dmmd::cpu;

namespace {

int failures = 0;
std::atomic<int64_t> products = 0;

void expect(bool holds, const char* what, double value = 0) {
  if (holds) return;
  std::printf("FAIL %s: %g\n", what, value);
  ++failures;
}

/// Four sums of 16 x 16, and two operands of 16 x 32 on either side.
struct EmulatedTiles {
  struct Use {
    Use() { ++products; }
  };
  float sums[4][kTileRows][kTileRows];
  const Half *a[2], *b[2];

  template <int R, int L, class Body>
  void each(Body body) {
    for (int r = 0; r < R; ++r)
      for (int l = 0; l < L; ++l)
        for (int64_t i = 0; i < kTileRows; ++i)
          for (int64_t j = 0; j < kTileRows; ++j) body(r, l, i, j, sums[2 * r + l][i][j]);
  }
  template <int R, int L>
  void zero() {
    each<R, L>([](int, int, int64_t, int64_t, float& sum) { sum = 0; });
  }
  template <int R, int L>
  void load(const float* c, int64_t pitch) {
    each<R, L>([&](int r, int l, int64_t i, int64_t j, float& sum) {
      sum = c[(r * kTileRows + i) * pitch + l * kTileRows + j];
    });
  }
  template <int R, int L>
  void store(float* c, int64_t pitch) {
    each<R, L>([&](int r, int l, int64_t i, int64_t j, float& sum) {
      c[(r * kTileRows + i) * pitch + l * kTileRows + j] = sum;
    });
  }
  template <int R>
  void left(const Half* a0, const Half* a1) {
    a[0] = a0, a[1] = a1;
  }
  template <int L>
  void right(const Half* b0, const Half* b1) {
    b[0] = b0, b[1] = b1;
  }
  template <int R, int L>
  void multiply() {
    each<R, L>([&](int r, int l, int64_t i, int64_t j, float& sum) {
      for (int64_t k = 0; k < kTileInner; ++k)
        sum +=
            to_float(a[r][i * kTileInner + k]) * to_float(b[l][k / 2 * kTileInner + 2 * j + k % 2]);
    });
  }
};

const TileUnit kEmulated = {"emulated", split_rows, multiply_split<EmulatedTiles>};

std::vector<float> normals(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& x : numbers) x = normal(random);
  return numbers;
}

/// c += a b of rows x inner x lanes, against long double.
void test_product(const TileUnit& unit, int64_t rows, int64_t inner, int64_t lanes) {
  const auto a = normals(rows * inner, 1), b = normals(inner * lanes, 2);
  std::vector<Half> left(size_t(halves_of(rows, inner)), 0x7fc0), right(halves_of(lanes, inner), 0);
  unit.split(a.data(), inner, rows, inner, left.data());
  for (int64_t k = 0; k < inner; ++k)
    for (int64_t l = 0; l < lanes; ++l)
      put_right(right.data(), chunks_of(inner), k, l, b[k * lanes + l]);
  const int64_t pitch = groups_of(lanes) * kTileRows + 16;
  for (const bool add : {false, true}) {
    std::vector<float> c(groups_of(rows) * kTileRows * pitch, add ? 1.0f : NAN);
    unit.multiply({left.data(), chunks_of(inner)}, {right.data(), chunks_of(inner)},
                  groups_of(rows), groups_of(lanes), c.data(), pitch, add);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t l = 0; l < lanes; ++l) {
        double exact = add, size = 1;
        for (int64_t k = 0; k < inner; ++k) {
          const double term = double(a[i * inner + k]) * double(b[k * lanes + l]);
          exact += term, size += std::fabs(term);
        }
        const double error = std::fabs(double(c[i * pitch + l]) - exact);
        expect(error <= size * (0x1p-16 + double(inner) * 0x1p-24), "product", error);
      }
    }
  }
}

struct Clouds {
  int64_t n, m, d;
  std::vector<float> z, x, v, w, params = {1, 0, 0};
  std::vector<Component> kernel = {{Profile::gaussian}};

  Clouds(int64_t n, int64_t m, int64_t d)
      : n(n),
        m(m),
        d(d),
        z(normals(n * d, 3)),
        x(normals(m * d, 4)),
        v(normals(n, 5)),
        w(normals(m, 6)) {
    params[1] = 0.5f / float(d);
    for (int64_t k = 0; k < d && n > 2 && m > 2; ++k) x[2 * d + k] = z[d + k] + 1e-3f;  // near
  }

  Problem<float> problem(bool high, int threads = 2) const {
    Problem<float> a;
    a.n = n, a.m = m, a.d = d;
    a.z = {z.data(), 0}, a.x = {x.data(), 0}, a.v = {v.data(), 0}, a.w = {w.data(), 0};
    a.params = {params.data(), 0};
    a.kernel = kernel.data(), a.components = int64_t(kernel.size());
    a.high = high, a.threads = threads;
    return a;
  }
};

naive::Results<float> run(const Problem<float>& a) {
  naive::Results<float> out;
  out.f.assign(a.n, NAN), out.g.assign(a.n * a.d, NAN), out.k.assign(a.n * a.m, NAN);
  out.form.assign(1, NAN), out.form_g.assign(a.n * a.d, NAN);
  potential(a, out.f.data());
  potential_grad(a, out.g.data());
  kernel_matrix(a, out.k.data());
  Problem<float> itself = a;
  itself.x = {}, itself.m = 0, itself.w = a.v;
  quadratic_form(itself, out.form.data(), out.form_g.data(), a.n);
  return out;
}

template <class A, class B>
double distance(const std::vector<A>& got, const std::vector<B>& exact) {
  double off = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    off += std::pow(double(got[i]) - double(exact[i]), 2);
    size += std::pow(double(exact[i]), 2);
  }
  return std::sqrt(off / size);
}

/// Sums of high precision against the formula. |z| |x| is about d, and t = q / 2d of a gaussian is
/// then wrong by 2^-16 at most, and by less where errors of many pairs and coordinates meet.
void test_sweeps(const Clouds& clouds) {
  const Problem<float> a = clouds.problem(true);
  Problem<float> itself = a;
  itself.x = a.z, itself.m = a.n, itself.w = a.v;
  const auto exact = naive::all<long double>(a), form = naive::all<long double>(itself);
  std::vector<long double> twice = form.g;
  for (long double& g : twice) g *= 2;
  const int64_t before = products;
  const auto got = run(a), full = run(clouds.problem(false));
  if (tile_unit() == &kEmulated) expect(products > before, "tiles were not used");
  const double errors[] = {distance(got.f, exact.f), distance(got.g, exact.g),
                           distance(got.k, exact.k), distance(got.form, form.form),
                           distance(got.form_g, twice)};
  for (const double error : errors) expect(error < 1e-5, "error of high precision", error);
  const double least = distance(full.k, exact.k);
  expect(errors[2] > 2 * least, "high precision rounds no more than full", errors[2]);
  std::printf("  %ld x %ld x %ld: f %.1e, g %.1e, K %.1e, form %.1e, its g %.1e\n", long(a.n),
              long(a.m), long(a.d), errors[0], errors[1], errors[2], errors[3], errors[4]);
}

/// Whole numbers of up to 8 bits have no lo, and their products no rounding.
void test_exact() {
  Clouds clouds(50, 70, 40);
  clouds.kernel = {{Profile::polynomial, 2}};
  clouds.params = {1, 0.25f, 1};
  for (auto* cloud : {&clouds.z, &clouds.x})
    for (float& x : *cloud) x = std::round(8 * x);
  const auto high = run(clouds.problem(true)), full = run(clouds.problem(false));
  expect(high.k == full.k, "whole numbers have no rounding");
}

void test_threads() {
  const Clouds clouds(naive::kTooSlow ? 110 : 300, naive::kTooSlow ? 130 : 500, 33);
  const auto one = run(clouds.problem(true, 1));
  for (int threads : {2, 3, 8}) {
    const auto many = run(clouds.problem(true, threads));
    expect(many.f == one.f && many.g == one.g && many.k == one.k && many.form == one.form &&
               many.form_g == one.form_g,
           "threads make a difference", threads);
  }
}

void test_halves() {
  for (const float x : {0.0f, 1.0f, -1.0f, 0x1.01p0f, 0x1.03p0f, 3e38f, INFINITY, -INFINITY})
    expect(std::fabs(to_float(to_half(x)) - x) <= std::fabs(x) / 256 || std::isinf(x), "bf16", x);
  expect(to_float(to_half(0x1.01p0f)) == 1.0f && to_float(to_half(0x1.03p0f)) == 0x1.04p0f,
         "ties go to even");
  expect(std::isnan(to_float(to_half(NAN))) && std::isinf(to_float(to_half(INFINITY))), "NaN");
}

void test_unit(const TileUnit& unit) {
  std::printf("%s with %s\n", unit.name, instruction_set());
  if (naive::kTooSlow) return test_threads();
  for (const int64_t rows : {1, 16, 17, 48})
    for (const int64_t inner : {1, 31, 32, 33, 200})
      for (const int64_t lanes : {1, 16, 40}) test_product(unit, rows, inner, lanes);
  for (const Clouds& clouds : {Clouds(2, 3, 16), Clouds(50, 97, 64), Clouds(33, 200, 20),
                               Clouds(130, 35, 513), Clouds(97, 100, 100)})
    test_sweeps(clouds);
  test_exact();
  test_threads();
}

}  // namespace

int main() {
  test_halves();
  for_instruction_sets([] {
    use_tile_unit(&kEmulated);
    test_unit(kEmulated);
    use_tile_unit(nullptr);
    if (const TileUnit* unit = tile_unit()) {
      test_unit(*unit);
    } else {
      const Clouds clouds(50, 97, 64);
      expect(run(clouds.problem(true)).g == run(clouds.problem(false)).g,
             "without tiles, high is full precision");
    }
  });
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures != 0;
}
