// The pull of a cloud at a few rows, for up to kMaxFlowD coordinates: lanes run over columns, the
// sums of the rows stay in registers, and no pair is ever stored.
#include "flow_rows.h"

#include "../profile.h"
#include "math.h"
#include "sweep.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

// Columns summed in registers before they join the double sums.
constexpr int64_t kColumns = 1024;

/// 2^r = 1 + r exp2(r) for |r| <= 1/2, within 1.1e-7 and 3e-18; highest power first.
template <class T>
struct Exp2;
template <>
struct Exp2<float> {
  static constexpr float largest = 126.9f, magic = 12583039.f;  // 1.5 2^23 + the bias of exponents
  static constexpr float coefficients[] = {0.001326472719734028f, 0.00967151263964993f,
                                           0.055507337432515236f, 0.24022242085375037f,
                                           0.693146977599164f};
};
template <>
struct Exp2<double> {
  static constexpr double largest = 1022.9, magic = 6755399441056767.;
  static constexpr double coefficients[] = {
      4.4352827069572771511e-10, 7.0741056135081427963e-9, 1.0178198021671930844e-7,
      1.321543308967639918e-6,   1.5252733489988525649e-5, 1.5403530462514432062e-4,
      1.3333558146789921722e-3,  9.6181291075883352443e-3, 5.5504108664819921605e-2,
      2.4022650695910156204e-1,  6.9314718055994533046e-1};
};

template <bool value_>
struct Choice {
  static constexpr bool value = value_;
};

/// The smaller of a bound and q; NaN stays NaN.
template <class V>
DMMD_INLINE V at_most(V bound, V q) {
#if DMMD_VECTOR_BYTES == 64
  if constexpr (sizeof(q.v[0]) == 4) {
    return V(_mm512_maskz_min_ps(0xffff, bound.v, q.v));
  } else {
    return V(_mm512_maskz_min_pd(0xff, bound.v, q.v));
  }
#elif DMMD_VECTOR_BYTES == 32
  if constexpr (sizeof(q.v[0]) == 4) {
    return V(_mm256_min_ps(bound.v, q.v));
  } else {
    return V(_mm256_min_pd(bound.v, q.v));
  }
#else
  return select(bound < q, bound, q);
#endif
}

/// q becomes 2^(-rate q), for rate > 0; what would be subnormal is zero. NaN stays NaN. Several
/// vectors go in step, since a single one would wait for each of its operations.
template <int N, class T>
DMMD_INLINE void exp2_of_negative(T rate, Vec<T> (&q)[N]) {
  using V = Vec<T>;
  using C = Exp2<T>;
  const V minus(-rate), largest(C::largest / rate);
  V k_magic[N], p[N];
  for (int i = 0; i < N; ++i) q[i] = at_most(largest, q[i]);
  // The low bits of k + magic are those of the exponent of 2^k.
  for (int i = 0; i < N; ++i) k_magic[i] = q[i] * minus + V(C::magic);
  for (int i = 0; i < N; ++i) q[i] = q[i] * minus - (k_magic[i] - V(C::magic));
  for (int i = 0; i < N; ++i) p[i] = V(C::coefficients[0]) * q[i] + V(C::coefficients[1]);
  for (unsigned c = 2; c < sizeof(C::coefficients) / sizeof(T); ++c)
    for (int i = 0; i < N; ++i) p[i] = p[i] * q[i] + V(C::coefficients[c]);
  for (int i = 0; i < N; ++i) p[i] = p[i] * q[i] + V(1);
  for (int i = 0; i < N; ++i)
    q[i] = p[i] * V::from_bits(k_magic[i].bits() << Constants<T>::mantissa);
}

/// One gaussian: 2 lambda scale psi' = -2 lambda scale exp(-scale q), of which the factor comes
/// last.
template <class T>
struct Gaussian {
  static constexpr bool kIsCheap = true;  // so that a product with the weight shows
  const FlowRows<T>& a;

  double factor() const { return -2.0 * double(a.params[0]) * double(a.params[1]); }

  template <int N>
  DMMD_INLINE void apply(Vec<T> (&q)[N]) const {
    exp2_of_negative(a.params[1] * T(1.44269504088896340736), q);
  }
};

/// Several gaussians of one distance.
template <class T>
struct Gaussians {
  static constexpr bool kIsCheap = false;
  const FlowRows<T>& a;

  double factor() const { return -2.0; }

  template <int N>
  DMMD_INLINE void apply(Vec<T> (&q)[N]) const {
    using V = Vec<T>;
    V sum[N], t[N];
    for (int i = 0; i < N; ++i) sum[i] = V(0);
    for (int64_t l = 0; l < a.components; ++l) {
      const T lambda = a.params[3 * l], scale = a.params[3 * l + 1];
      for (int i = 0; i < N; ++i) t[i] = q[i];
      exp2_of_negative(scale * T(1.44269504088896340736), t);
      for (int i = 0; i < N; ++i) sum[i] = sum[i] + V(lambda * scale) * t[i];
    }
    for (int i = 0; i < N; ++i) q[i] = sum[i];
  }
};

/// Any components, all radial or all polynomial: sum_l lambda scale psi'(scale q).
template <bool IsRadial, class T>
struct Components {
  static constexpr bool kIsCheap = false;
  const FlowRows<T>& a;

  double factor() const { return IsRadial ? 2 : 1; }

  template <int N>
  DMMD_INLINE void apply(Vec<T> (&q)[N]) const {
    using V = Vec<T>;
    V sum[N];
    for (int i = 0; i < N; ++i) sum[i] = V(0);
    for (int64_t l = 0; l < a.components; ++l) {
      const T* row = a.params + 3 * l;
      const V slope(row[0] * row[1]), scale(row[1]), shape(row[2]);
      const auto add = [&](auto psi) {
        for (int i = 0; i < N; ++i)
          sum[i] = sum[i] + slope * psi.jet(scale * q[i], shape, a.kernel[l].degree).d;
      };
      if constexpr (IsRadial) {
        const bool plain = a.kernel[l].profile == Profile::energy && row[2] == T(1);
        with_shape(plain ? Profile::distance : a.kernel[l].profile, add);
      } else {
        add(Shape<Profile::polynomial>());
      }
    }
    for (int i = 0; i < N; ++i) q[i] = sum[i];
  }
};

/// sum[r] += sum_j w_j s(q_rj) pull_rj over columns [j, end), C vectors at a time; without weights
/// where these are uniform.
template <int D, int R, int C, bool IsRadial, bool IsWeighted, class Slope, class T>
DMMD_INLINE void sum_columns(const FlowRows<T>& a, const Slope& slope, const Vec<T> (&z)[R][D],
                             int64_t j, int64_t end, Vec<T> (&sum)[R][D]) {
  using V = Vec<T>;
  for (; j < end; j += C * V::size) {
    V s[R * C], pull[R * C][D];
    for (int i = 0; i < R * C; ++i) s[i] = V(0);
    for (int k = 0; k < D; ++k)
      for (int i = 0; i < R * C; ++i) {
        const V x = V::load(a.x + k * a.pitch + j + i / R * V::size);
        pull[i][k] = IsRadial ? x - z[i % R][k] : x;
        s[i] = s[i] + pull[i][k] * (IsRadial ? pull[i][k] : z[i % R][k]);
      }
    slope.apply(s);
    for (int i = 0; i < R * C; ++i) {
      if constexpr (IsWeighted) s[i] = s[i] * V::load(a.w + j + i / R * V::size);
      for (int k = 0; k < D; ++k) sum[i % R][k] = sum[i % R][k] + s[i] * pull[i][k];
    }
  }
}

/// Rows [row, row + R) of the four.
template <int D, int R, int C, bool IsRadial, class Slope, class T>
DMMD_INLINE void sum_rows(const FlowRows<T>& a, const Slope& slope, int row) {
  using V = Vec<T>;
  V z[R][D], sum[R][D];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < D; ++k) z[r][k] = V(a.z[k * kFlowRows + row + r]);
  const auto add = [&](auto weighted, int64_t begin, int64_t end, double factor) {
    for (; begin < end; begin += kColumns) {
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < D; ++k) sum[r][k] = V(0);
      const int64_t stop = begin + kColumns < end ? begin + kColumns : end;
      sum_columns<D, R, C, IsRadial, decltype(weighted)::value>(a, slope, z, begin, stop, sum);
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < D; ++k)
          a.g[k * kFlowRows + row + r] += factor * dmmd::cpu::DMMD_ISA::sum(sum[r][k]);
    }
  };
  const double factor = IsRadial ? -slope.factor() : slope.factor();
  int64_t begin = 0;
  if constexpr (Slope::kIsCheap) {
    begin = a.uniform;
    add(Choice<false>(), 0, begin, factor * double(*a.w));
  }
  add(Choice<true>(), begin, a.columns, factor);
}

// Two rows and two vectors of columns: four pairs in step hide the latency of each.
template <int D, bool IsRadial, class T, class Slope>
void sum_all(const FlowRows<T>& a, const Slope& slope) {
  for (int row = 0; row < kFlowRows; row += 2) sum_rows<D, 2, 2, IsRadial>(a, slope, row);
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
  sum_all<D, true>(a, Gaussian<T>{a});
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
