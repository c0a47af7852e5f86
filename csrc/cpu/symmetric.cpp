// The quadratic form of one cloud with itself, with its gradients, over each pair once: rows of one
// part of the cloud against columns of another. What a pair adds to the gradient of its row it
// takes, mirrored, from that of its column; only points that move have a gradient.
#include "symmetric_pass.h"
#include "weigh.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

/// Adds sum c K to value and, of one component, its derivatives to q; s = c dK/dq replaces the
/// distances.
template <bool Params, class Kernel, class T>
void weigh_by(const Strip<T>& strip, const Kernel& kernel, double* value, double* q_sums) {
  using V = Vec<T>;
  const V factor(T(kernel.slope_factor()));
  double values = 0, scales = 0;
  for (int64_t r = 0; r < strip.rows; ++r) {
    T* q = strip.q + r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V sum_value(0), sum_scale(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V qj = V::load(q + j), weight = V::load(c + j);
      const Pair<V> pair = kernel(qj);
      const V pull = weight * pair.slope;
      sum_value = sum_value + weight * pair.value;
      if constexpr (Params) sum_scale = sum_scale + qj * pull;
      (factor * pull).store(q + j);
    }
    values += sum(sum_value);
    scales += sum(sum_scale);
  }
  *value += kernel.value_factor() * values;
  if (!Params) return;
  q_sums[0] += values;
  q_sums[1] += slope_per_scale(strip) * scales;
}

/// Adds to the item's value and q, and returns the weighted slopes.
template <class T>
T* weigh_pairs(const SymmetricStrip<T>& strip) {
  const Problem<T>& a = strip.problem();
  double* value = strip.pair.value;
  double* q = strip.pair.rows.q;
  const bool wants_params = strip.sweep.want & kParams;
  const bool is_simple = a.components == 1 && has_no_shape(a.kernel[0].profile);
  if (wants_params && !is_simple)
    for_components(strip, [&](auto shape, int64_t l) {
      sum_params<decltype(shape)>(strip, strip.parameters(l), q + 3 * l);
    });
  const bool done = with_kernel(strip, [&](const auto& kernel) {
    if (wants_params && is_simple) {
      weigh_by<true>(strip, kernel, value, q);
    } else {
      weigh_by<false>(strip, kernel, value, q);
    }
  });
  if (done) return strip.q;
  double sums[kMaxStrip];
  T *k = strip.buffer(2), *s = strip.buffer(3);
  evaluate<true, true>(strip, k, s);
  weigh_all<true, true>(strip, k, s, sums);
  for (int64_t r = 0; r < strip.rows; ++r) *value += sums[r];
  return s;
}

/// to[k, j] += sum_r s[r, j] (x - z), or of z alone when not Difference.
template <bool Difference, class T>
void sum_rows(Rows<T> z, Columns<T> x, int64_t rows, int64_t d, const T* s, int64_t pitch, T* to) {
  using V = Vec<T>;
  for (int64_t k = 0; k < d; ++k) {
    for (int64_t j = x.begin; j < x.end; j += V::size) {
      const V xj = V::load(x.at(k, j));
      V total = V::load(to + k * pitch + j);
      for (int64_t r = 0; r < rows; ++r) {
        const V zr(z.data[r * z.pitch + k]);
        total = total + V::load(s + r * pitch + j) * pull_of<Difference>(xj, zr);
      }
      total.store(to + k * pitch + j);
    }
  }
}

/// total[j] += sum_r s[r, j]
template <class T>
void add_column_totals(const T* s, int64_t rows, int64_t begin, int64_t end, int64_t pitch,
                       double* total) {
  using V = Vec<T>;
  for (int64_t j = begin; j < end; j += V::size) {
    V sum(0);
    for (int64_t r = 0; r < rows; ++r) sum = sum + V::load(s + r * pitch + j);
    for (int i = 0; i < V::size; ++i) total[j + i] += double(sum.v[i]);
  }
}

/// From differences.
template <bool Difference, class T>
void pull_both(const SymmetricStrip<T>& strip, const T* s) {
  const int64_t d = strip.problem().d, rows = strip.moving_rows;
  double* to = strip.item.g + grouped(strip.row - strip.item.row, 0, d);
  sum_columns<Difference>(strip.z(), strip.x(), rows, d, s, strip.pitch, to);
  Columns<T> moving = strip.x();
  moving.end = strip.moving_end;
  sum_rows<Difference>(strip.z(), moving, rows, d, s, strip.pitch, strip.pair.column_sums);
}

template <class T>
void pull_both_by_products(const SymmetricStrip<T>& strip, T* s) {
  const int64_t pitch = strip.pitch, begin = strip.begin, rows = strip.moving_rows;
  const int64_t z_pitch = strip.z().pitch;
  T* columns = strip.pair.column_sums;
  pull_near(strip, s,
            [&](int64_t j) { return j < strip.moving_end ? columns + j * z_pitch : nullptr; });
  double* row_total = strip.item.scratch.total + (strip.row - strip.item.row);
  for (int64_t r = 0; r < rows; ++r)
    row_total[r] += sum_of(s + r * pitch + begin, strip.end - begin);
  add_column_totals(s, rows, begin, strip.moving_end, pitch, strip.pair.column_total);
  multiply_both(strip, s);
}

template <class T>
void pull_both(const SymmetricStrip<T>& strip, T* s) {
  if (strip.moving_rows == 0) return;
  if (strip.by_products()) return pull_both_by_products(strip, s);
  if (strip.radial()) return pull_both<true>(strip, s);
  pull_both<false>(strip, s);
}

/// Adds the sums of a tile's columns that move to the gradient, and clears them.
template <class T>
void flush_columns(const Sweep<T>& sweep, const SymmetricItem<T>& pair, int64_t tile) {
  const Problem<T>& a = sweep.problem;
  const bool by_products = sweep.regime.method == Method::products;
  const bool radial = a.kernel[0].profile != Profile::polynomial;
  const int64_t first = tile * sweep.width, width = sweep.width;
  const int64_t count = clamp(sweep.moving - first, 0, width);
  if (count == 0) return;
  const int64_t z_pitch = pair.rows.scratch.z_pitch;
  double* to = pair.gradient + first * a.d;
  for (int64_t j = 0; j < count; ++j, to += a.d) {
    if (!by_products) {
      for (int64_t k = 0; k < a.d; ++k) to[k] += double(pair.column_sums[k * width + j]);
      continue;
    }
    const T* sums = pair.column_sums + j * z_pitch;
    for (int64_t k0 = 0; k0 < a.d; k0 += kLanes<T>) {
      const T* x = sweep.x_of.tile(pair.rows.block, tile) + k0 * width + j * kLanes<T>;
      const double total = radial ? pair.column_total[j] : 0, sign = radial ? -1 : 1;
      const int64_t lanes = a.d - k0 < kLanes<T> ? a.d - k0 : kLanes<T>;
      for (int64_t k = 0; k < lanes; ++k)
        to[k0 + k] += total * double(x[k]) + sign * double(sums[k0 + k]);
    }
  }
  const int64_t size = by_products ? width * z_pitch : width * a.d;
  for (int64_t i = 0; i < size; ++i) pair.column_sums[i] = T(0);
  for (int64_t j = 0; j < width; ++j) pair.column_total[j] = 0;
}

template <class T>
void flush_rows(const Sweep<T>& sweep, const SymmetricItem<T>& pair) {
  const Item<T>& item = pair.rows;
  const int64_t d = sweep.problem.d;
  const int64_t count = clamp(sweep.moving - item.row, 0, item.row_end - item.row);
  const auto gradient_of = [&](int64_t r) {
    return r < count ? pair.gradient + (item.row + r) * d : nullptr;
  };
  if (sweep.regime.method == Method::products) return flush<1>(sweep, item, gradient_of);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t k = 0; k < d; ++k) {
      double& sum = item.g[grouped(r, k, d)];
      pair.gradient[(item.row + r) * d + k] += sum;
      sum = 0;
    }
}

}  // namespace

template <class T>
void symmetric(const Sweep<T>& sweep, const SymmetricItem<T>& pair) {
  const Item<T>& item = pair.rows;
  for (int64_t tile = item.tile; tile < item.tile_end; ++tile) {
    const int64_t end = (tile + 1) * sweep.width;
    for (int64_t row = item.row; row < item.row_end; row += sweep.regime.strip) {
      if (pair.is_diagonal && row >= end) break;
      SymmetricStrip<T> strip(sweep, pair, tile, row);
      if (meet_in_one_pass(strip)) continue;
      strip.measure();
      strip.weigh_symmetric();
      T* s = weigh_pairs(strip);
      if (sweep.want & kGradient) pull_both(strip, s);
    }
    if (sweep.want & kGradient) flush_columns(sweep, pair, tile);
  }
  if (sweep.want & kGradient) flush_rows(sweep, pair);
}

template void symmetric(const Sweep<float>&, const SymmetricItem<float>&);
template void symmetric(const Sweep<double>&, const SymmetricItem<double>&);

}  // namespace dmmd::cpu::DMMD_ISA
