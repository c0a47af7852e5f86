// The quadratic form of one cloud with itself, with its gradients, over each pair once: rows of one
// part of the cloud against columns of another. What a pair adds to the gradient of its row it
// takes, mirrored, from that of its column; only points that move have a gradient.
#include "pull.h"
#include "weigh.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

constexpr int64_t clamp(int64_t i, int64_t least, int64_t most) {
  return i < least ? least : i > most ? most : i;
}

template <class T>
struct SymmetricStrip : Strip<T> {
  const SymmetricItem<T>& pair;
  int64_t moving_rows, moving_end;  // the first rows move, and columns before an end, in vectors

  SymmetricStrip(const Sweep<T>& sweep, const SymmetricItem<T>& pair, int64_t tile, int64_t row)
      : Strip<T>(sweep, pair.rows, tile, row), pair(pair) {
    // Left of the diagonal a pair has been met, or will be, as its mirror image.
    if (pair.is_diagonal && row > this->first)
      this->begin = (row - this->first) / kLanes<T> * kLanes<T>;
    const int64_t columns = round_to_vector<T>(clamp(sweep.moving - this->first, 0, this->end));
    moving_rows = clamp(sweep.moving - row, 0, this->rows);
    moving_end = clamp(columns, this->begin, this->end);
  }

  /// c_ij into a buffer of its own: 0 below the diagonal and 1/2 on it, or 0 where it is skipped.
  void weigh_symmetric() {
    T* own = this->buffer(1);
    const int64_t p = this->problem().p;
    this->sum(Product<T>{this->rows_of(this->problem().v, p), this->w()}, p, own);
    this->c = own;
    this->c_is_whole = true;
    this->c_pitch = this->pitch;
    if (!pair.is_diagonal) return;
    for (int64_t r = 0; r < this->rows; ++r) {
      const int64_t diagonal = this->row + r - this->first;
      T* at = own + r * this->pitch;
      for (int64_t j = this->begin; j < this->end && j < diagonal; ++j) at[j] = T(0);
      if (diagonal < this->begin || diagonal >= this->end) continue;
      at[diagonal] *= T(0.5);
      if (!this->problem().skip_diagonal) continue;
      at[diagonal] = this->q[r * this->pitch + diagonal] = T(0);
    }
  }
};

/// Whether the derivatives in lambda and scale follow from value and slope, and there is no other.
DMMD_INLINE bool has_no_shape(Profile profile) {
  return profile == Profile::gaussian || profile == Profile::imq || profile == Profile::laplace ||
         profile == Profile::square_distance;
}

/// What the slope factor of the one component is a multiple of its scale by.
template <class T>
double slope_per_scale(const Strip<T>& strip) {
  Parameters<T> unit = strip.parameters(0);
  unit.scale = T(1);
  double factor = 0;
  with_component(strip.problem().kernel[0].profile, unit,
                 [&](const auto& form) { factor = double(form.slope_factor); });
  return factor;
}

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
  const Item<T>& item = strip.item;
  const int64_t pitch = strip.pitch, begin = strip.begin, rows = strip.moving_rows;
  const int64_t moving = strip.moving_end - begin, z_pitch = strip.z().pitch;
  const int64_t lanes = round_to_vector<T>(strip.problem().d);
  T* columns = strip.pair.column_sums;
  pull_near(strip, s,
            [&](int64_t j) { return j < strip.moving_end ? columns + j * z_pitch : nullptr; });
  double* row_total = item.scratch.total + (strip.row - item.row);
  for (int64_t r = 0; r < rows; ++r)
    row_total[r] += sum_of(s + r * pitch + begin, strip.end - begin);
  add_column_totals(s, rows, begin, strip.moving_end, pitch, strip.pair.column_total);
  const Right<T> x{strip.sweep.x_of.tile(item.block, strip.tile) + begin * kLanes<T>,
                   kLanes<T> * pitch, kLanes<T>};
  multiply(Left<T>{s + begin, pitch, 1}, x, rows, strip.end - begin, lanes, strip.sums(0),
           item.scratch.sums_pitch, true);
  if (moving == 0) return;
  const Right<T> z{strip.z().data, kLanes<T>, z_pitch};
  multiply(Left<T>{s + begin, 1, pitch}, z, moving, rows, lanes, columns + begin * z_pitch, z_pitch,
           true);
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
  if (sweep.regime.method == Method::products)
    return flush(sweep, item, count, 1,
                 [&](int64_t r) { return pair.gradient + (item.row + r) * d; });
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
