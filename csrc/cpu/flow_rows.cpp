// The pull of a cloud at a few rows, for up to kMaxFlowD coordinates: lanes run over columns, the
// sums of the rows stay in registers, and no pair is ever stored.
#include "flow_rows.h"

#include "../profile.h"
#include "component.h"
#include "sweep.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

// Columns summed in registers before they join the double sums.
constexpr int64_t kColumns = 1024;

template <bool value_>
struct Choice {
  static constexpr bool value = value_;
};

/// One gaussian: 2 lambda scale psi' = -2 lambda scale exp(-scale q), of which the factor comes
/// last. IsNormal: no point is so far that its exponential is no normal number.
template <bool IsNormal, class T>
struct Gaussian {
  static constexpr bool kIsCheap = true;  // so that a product with the weight shows
  const FlowRows<T>& a;

  double factor() const { return -2.0 * double(a.params[0]) * double(a.params[1]); }

  template <class V>
  DMMD_INLINE V operator()(V q) const {
    return exp2_minus<IsNormal>(a.params[1] * T(kLog2e), q);
  }
};

/// Several gaussians of one distance.
template <class T>
struct Gaussians {
  static constexpr bool kIsCheap = false;
  const FlowRows<T>& a;

  double factor() const { return -2.0; }

  template <class V>
  DMMD_INLINE V operator()(V q) const {
    V sum(0);
    for (int64_t l = 0; l < a.components; ++l) {
      const T lambda = a.params[3 * l], scale = a.params[3 * l + 1];
      sum = sum + V(bounded<T>(double(lambda) * scale)) * exp2_minus(scale * T(kLog2e), q);
    }
    return sum;
  }
};

/// Any components, all radial or all polynomial: sum_l lambda scale psi'(scale q).
template <bool IsRadial, class T>
struct Components {
  static constexpr bool kIsCheap = false;
  const FlowRows<T>& a;

  double factor() const { return IsRadial ? 2 : 1; }

  template <int N>
  DMMD_INLINE Pack<T, N> operator()(Pack<T, N> q) const {
    using V = Vec<T>;
    Pack<T, N> sum(0);
    for (int64_t l = 0; l < a.components; ++l) {
      const T* row = a.params + 3 * l;
      const V slope(bounded<T>(double(row[0]) * row[1])), scale(row[1]), shape(row[2]);
      const auto add = [&](auto psi) {
        for (int i = 0; i < N; ++i)
          sum.v[i] = sum.v[i] + slope * psi.jet(scale * q.v[i], shape, a.kernel[l].degree).d;
      };
      if constexpr (IsRadial) {
        const bool plain = a.kernel[l].profile == Profile::energy && row[2] == T(1);
        with_shape(plain ? Profile::distance : a.kernel[l].profile, add);
      } else {
        add(Shape<Profile::polynomial>());
      }
    }
    return sum;
  }
};

/// sum_j w_j s(q_rj) pull_rj over columns [begin, end); without weights where these are uniform.
template <int D, int R, bool IsRadial, bool IsWeighted, class Slope, class T>
DMMD_INLINE void sum_columns(const FlowRows<T>& a, const Slope& slope, const Pack<T, R> (&z)[D],
                             int64_t begin, int64_t end, Pack<T, R> (&sum)[D]) {
  using P = Pack<T, R>;
  P total[D];
  for (int k = 0; k < D; ++k) total[k] = P(0);
  for (int64_t j = begin; j < end; j += Vec<T>::size) {
    P q, pull[D];
    for (int k = 0; k < D; ++k) {
      const P x(Vec<T>::load(a.x + k * a.pitch + j));
      pull[k] = IsRadial ? x - z[k] : x;
      const P part = pull[k] * (IsRadial ? pull[k] : z[k]);
      q = k == 0 ? part : q + part;
    }
    P s = slope(q);
    if constexpr (IsWeighted) s = s * P(Vec<T>::load(a.w + j));
    for (int k = 0; k < D; ++k) total[k] = total[k] + s * pull[k];
  }
  for (int k = 0; k < D; ++k) sum[k] = total[k];
}

/// Rows [row, row + R) of the four.
template <int D, int R, bool IsRadial, class Slope, class T>
DMMD_INLINE void sum_rows(const FlowRows<T>& a, const Slope& slope, int row) {
  Pack<T, R> z[D], sums[D];
  for (int k = 0; k < D; ++k)
    for (int r = 0; r < R; ++r) z[k].v[r] = Vec<T>(a.z[k * kFlowRows + row + r]);
  const auto add = [&](auto weighted, int64_t begin, int64_t end, double factor) {
    for (; begin < end; begin += kColumns) {
      const int64_t stop = begin + kColumns < end ? begin + kColumns : end;
      sum_columns<D, R, IsRadial, decltype(weighted)::value>(a, slope, z, begin, stop, sums);
      for (int k = 0; k < D; ++k)
        for (int r = 0; r < R; ++r) a.g[k * kFlowRows + row + r] += factor * sum(sums[k].v[r]);
    }
  };
  const double factor = IsRadial ? -slope.factor() : slope.factor();
  int64_t begin = 0;
  if (Slope::kIsCheap && a.is_uniform) {
    begin = a.count / Vec<T>::size * Vec<T>::size;
    add(Choice<false>(), 0, begin, factor * double(*a.w));
  }
  add(Choice<true>(), begin, a.count, factor);
}

// Two rows in step: more would not fit into sixteen registers.
template <int D, bool IsRadial, class T, class Slope>
void sum_all(const FlowRows<T>& a, const Slope& slope) {
  for (int row = 0; row < kFlowRows; row += 2) sum_rows<D, 2, IsRadial>(a, slope, row);
}

template <int D, class T>
void with_kernel(const FlowRows<T>& a) {
  if (a.kernel[0].profile == Profile::polynomial)
    return sum_all<D, false>(a, Components<false, T>{a});
  bool gaussian = true;
  for (int64_t l = 0; l < a.components; ++l)
    gaussian = gaussian && a.kernel[l].profile == Profile::gaussian;
  if (!gaussian) return sum_all<D, true>(a, Components<true, T>{a});
  if (a.components > 1) return sum_all<D, true>(a, Gaussians<T>{a});
  if (is_normal_power(a.params[1] * T(kLog2e) * a.reach))
    return sum_all<D, true>(a, Gaussian<true, T>{a});
  sum_all<D, true>(a, Gaussian<false, T>{a});
}

}  // namespace

template <class T>
void flow_rows(const FlowRows<T>& a) {
  switch (a.d) {
    case 1:
      return with_kernel<1>(a);
    case 2:
      return with_kernel<2>(a);
    case 3:
      return with_kernel<3>(a);
    case 4:
      return with_kernel<4>(a);
    default:
      return with_kernel<kMaxFlowD>(a);
  }
}

template void flow_rows(const FlowRows<float>&);
template void flow_rows(const FlowRows<double>&);

}  // namespace dmmd::cpu::DMMD_ISA
