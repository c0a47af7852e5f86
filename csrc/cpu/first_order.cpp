// potential, potential_grad, params_grad and kernel_matrix of one work item.
#include "pull.h"
#include "registers.h"
#include "slopes.h"
#include "weigh.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

template <class T>
void pull(const Strip<T>& strip, T* s) {
  if (strip.by_products()) return pull_by_products(strip, s);
  const int64_t d = strip.problem().d;
  double* to = strip.item.g + grouped(strip.row - strip.item.row, 0, d);
  if (strip.radial()) {
    sum_columns<true>(strip.z(), strip.x(), strip.rows, d, s, strip.pitch, to);
  } else {
    sum_columns<false>(strip.z(), strip.x(), strip.rows, d, s, strip.pitch, to);
  }
}

/// f for p right-hand sides: K w
template <class T>
void apply(const Strip<T>& strip) {
  const Item<T>& item = strip.item;
  T* k = strip.buffer(2);
  evaluate<true, false, T>(strip, k, nullptr);
  strip.clear_skipped(k);
  const Right<T> w{strip.sweep.w_of.tile(item.block, strip.tile), kLanes<T> * strip.pitch,
                   kLanes<T>};
  multiply(Left<T>{k, strip.pitch, 1}, w, strip.rows, strip.end,
           round_to_vector<T>(strip.problem().p), strip.sums(0), item.scratch.sums_pitch, true);
}

template <class T>
void copy_matrix(const Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  T* k = strip.buffer(2);
  evaluate<true, false, T>(strip, k, nullptr);
  const int64_t count = strip.end < a.m - strip.first ? strip.end : a.m - strip.first;
  for (int64_t r = 0; r < strip.rows; ++r) {
    T* to = strip.sweep.matrix + (strip.item.block * a.n + strip.row + r) * a.m + strip.first;
    std::memcpy(to, k + r * strip.pitch, size_t(count) * sizeof(T));
  }
}

template <class T>
void sweep_strip(Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  const Item<T>& item = strip.item;
  const int want = strip.sweep.want;
  double sums[kMaxStrip];
  if (want == kGradient && pull_in_one_pass(strip)) return;
  strip.measure();
  if (want == kMatrix) return copy_matrix(strip);
  strip.weigh(want != kPotential);
  if (want == kPotential && a.p != 1) return apply(strip);

  if (want == kPotential) {
    weigh<true, false>(strip, sums);
  } else if (want == kGradient) {
    pull(strip, weigh<false, true>(strip, sums));
  } else if (want == (kPotential | kGradient)) {
    pull(strip, weigh<true, true>(strip, sums));
  } else {
    for_components(strip, [&](auto shape, int64_t l) {
      sum_params<decltype(shape)>(strip, strip.parameters(l), item.q + 3 * l);
    });
  }
  for (int64_t r = 0; want & kPotential && r < strip.rows; ++r)
    item.f[strip.row - item.row + r] += sums[r];
}

/// A strip in registers, but for the panels that hold the diagonal of its rows where that is
/// skipped; false when registers cannot do it. Changes which columns the strip sweeps.
template <class T>
bool sweep_off_diagonal(Strip<T>& strip) {
  if (!strip.crosses_diagonal()) return sweep_in_registers(strip);
  const int64_t from = strip.row - strip.first, end = strip.end;
  const int64_t left = from > 0 ? from / kLanes<T> * kLanes<T> : 0;
  const int64_t right = round_to(from + strip.rows, kLanes<T>);
  strip.end = left;
  if (!sweep_in_registers(strip)) return strip.end = end, false;
  if (right < end) {
    strip.begin = right;
    strip.end = end;
    sweep_in_registers(strip);
  }
  strip.begin = left;
  strip.end = right < end ? right : end;
  sweep_strip(strip);
  return true;
}

/// As above, for all columns; a panel that reaches beyond the cloud is not for registers either.
template <class T>
bool sweep_registers(Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  if (strip.sweep.regime.method != Method::registers || a.p != 1 || a.d == 0 || !strip.radial() ||
      (strip.sweep.want & (kParams | kMatrix)))
    return false;
  const int64_t end = strip.end, count = a.m - strip.first;
  const int64_t whole = count < end ? count / kLanes<T> * kLanes<T> : end;
  strip.c = strip.w().data;
  strip.end = whole;
  if (!sweep_off_diagonal(strip)) return strip.end = end, false;
  if (whole == end) return true;
  strip.begin = whole;
  strip.end = end;
  sweep_strip(strip);
  return true;
}

template <class T>
void first_order(const Sweep<T>& sweep, const Item<T>& item) {
  const bool sums_products = item.scratch.sums_pitch != 0;
  for (int64_t tile = item.tile; tile < item.tile_end; ++tile) {
    for (int64_t row = item.row; row < item.row_end; row += sweep.regime.strip) {
      Strip<T> strip(sweep, item, tile, row);
      if (!sweep_registers(strip)) sweep_strip(strip);
    }
    const int64_t done = tile - item.tile + 1;
    if (sums_products && (done % kTilesPerFlush == 0 || tile + 1 == item.tile_end))
      flush(sweep, item);
  }
}

}  // namespace

template <class T>
void second_order(const Sweep<T>& sweep, const Item<T>& item);
extern template void second_order(const Sweep<float>&, const Item<float>&);
extern template void second_order(const Sweep<double>&, const Item<double>&);
template <class T>
void flow_rows(const FlowRows<T>&);
extern template void flow_rows(const FlowRows<float>&);
extern template void flow_rows(const FlowRows<double>&);

template <class T>
void sum_rows(const RowSpan<T>&);
extern template void sum_rows(const RowSpan<float>&);
extern template void sum_rows(const RowSpan<double>&);
template <class T>
void pull_rows(const RowPull<T>&);
extern template void pull_rows(const RowPull<float>&);
extern template void pull_rows(const RowPull<double>&);

template <class T>
void symmetric(const Sweep<T>& sweep, const SymmetricItem<T>& item);
extern template void symmetric(const Sweep<float>&, const SymmetricItem<float>&);
extern template void symmetric(const Sweep<double>&, const SymmetricItem<double>&);

#define DMMD_STRING_OF(name) #name
#define DMMD_STRING(name) DMMD_STRING_OF(name)
const Isa<float> floats = {DMMD_STRING(DMMD_ISA), first_order<float>, second_order<float>,
                           symmetric<float>,      flow_rows<float>,   sum_rows<float>,
                           pull_rows<float>};
const Isa<double> doubles = {DMMD_STRING(DMMD_ISA), first_order<double>, second_order<double>,
                             symmetric<double>,     flow_rows<double>,   sum_rows<double>,
                             pull_rows<double>};

}  // namespace dmmd::cpu::DMMD_ISA
