// exp, log, log1p, roots and powers of whole vectors. Over their whole range (tests/cpp sweeps it)
// they are off by at most
//     exp 2 ulp, subnormal results included;  log, log1p 2 ulp;  pow, pow1p (|a| + 3) ulp
//     exp2_minus 2 ulp, within 2^-126 or 2^-1022 below those numbers;  inverse_root 2 ulp
// and NaN stays NaN.
#pragma once

#include "vector.h"

namespace dmmd::cpu::DMMD_ISA {

template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr int mantissa = 23;
  static constexpr float magic = 12582912.f;  // adding 1.5 2^23 rounds to a whole number
  static constexpr float lowest = -104.f, highest = 89.f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float ln2_short = 6.9313812256e-01f, ln2_rest = 9.0580006145e-06f;
  static constexpr float min_normal = 1.17549435e-38f, max = 3.40282347e38f;
  static constexpr float rescale = 16777216.f;  // 2^24
  static constexpr int rescale_exponent = 24;
  static constexpr int32_t sqrt_half = 0x3f3504f3;
  static constexpr int32_t upper_half = ~0xfff;  // of the mantissa
  static constexpr float min_exponent = -151.f, max_exponent = 129.f;
  // (exp(r) - 1 - r) / r^2, |r| <= ln2 / 2, highest power first
  static constexpr float exp[] = {0.0013927684616574f, 0.0083643806932910f, 0.0416665454210955f,
                                  0.1666656962811547f, 0.5f};
  // (2^-f - 1) / f, |f| <= 1/2
  static constexpr float exp2_minus[] = {1.5453162945e-04f, -1.3390863366e-03f,
                                         9.6180825573e-03f, -5.5503571142e-02f,
                                         2.4022650761e-01f, -6.9314718802e-01f};
  // the same for |f| <= 1/16
  static constexpr float exp2_minus_near_0[] = {-5.551142991e-02f, 2.402576357e-01f,
                                                -6.931471825e-01f};
  static constexpr int bias = 127;
  // (log(1 + f) - f + f^2 / 2 - s f^2 / 2) / s as a polynomial in s^2, s = f / (2 + f)
  static constexpr float log[] = {0.24279078841f, 0.28498786688f, 0.40000972152f, 0.66666662693f};
};

template <>
struct Constants<double> {
  static constexpr int mantissa = 52;
  static constexpr double magic = 6755399441055744.0;
  static constexpr double lowest = -746.0, highest = 710.0;
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double ln2_short = ln2_high, ln2_rest = ln2_low;
  static constexpr double min_normal = 2.2250738585072014e-308, max = 1.7976931348623157e308;
  static constexpr double rescale = 18014398509481984.0;  // 2^54
  static constexpr int rescale_exponent = 54;
  static constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr int64_t upper_half = ~0x7ffffff;
  static constexpr double min_exponent = -1077.0, max_exponent = 1026.0;
  static constexpr double exp[] = {2.0916212837493833e-9,
                                   2.5107353767261877e-8,
                                   2.7557269903215793e-7,
                                   2.7557250163029180e-6,
                                   2.4801587328555859e-5,
                                   1.9841269879033044e-4,
                                   1.3888888888882870e-3,
                                   8.3333333333249057e-3,
                                   4.16666666666666704e-2,
                                   1.66666666666666719e-1,
                                   0.5};
  static constexpr double exp2_minus[] = {
      2.5729324177362304e-11,  -4.4558179083360645e-10, 7.0548973041554993e-09,
      -1.0178057087733941e-07, 1.3215486808705563e-06,  -1.5252733841556773e-05,
      1.5403530393370733e-04,  -1.3333558146406471e-03, 9.6181291076284795e-03,
      -5.5504108664821627e-02, 2.4022650695910071e-01,  -6.9314718055994531e-01};
  static constexpr int bias = 1023;
  static constexpr double log[] = {1.479819860511658591e-01, 1.531383769920937332e-01,
                                   1.818357216161805012e-01, 2.222219843214978396e-01,
                                   2.857142874366239149e-01, 3.999999999940941908e-01,
                                   6.666666666666735130e-01};
};

template <class V, int N>
DMMD_INLINE V polynomial(V x, const typename V::Element (&coefficients)[N]) {
  V result = V(coefficients[0]);
  for (int i = 1; i < N; ++i) result = result * x + V(coefficients[i]);
  return result;
}

/// 2^k exp(r) for |r| < 0.4 and a whole number k given as k + magic. Scales in two steps, so that
/// subnormal results are right.
template <class T>
DMMD_INLINE Vec<T> exp_scaled(Vec<T> r, Vec<T> k_magic) {
  using C = Constants<T>;
  const Vec<T> p = r * r * polynomial(r, C::exp) + r + Vec<T>(1);
  const auto k = k_magic.bits() - Vec<T>(C::magic).bits();
  const auto half = k >> 1;
  const auto one = Vec<T>(1).bits();
  return p * Vec<T>::from_bits(one + (half << C::mantissa)) *
         Vec<T>::from_bits(one + ((k - half) << C::mantissa));
}

template <class T>
DMMD_INLINE Vec<T> exp(Vec<T> x) {
  using C = Constants<T>;
  x = select(x < Vec<T>(C::lowest), Vec<T>(C::lowest), x);
  x = select(x > Vec<T>(C::highest), Vec<T>(C::highest), x);
  const Vec<T> k_magic = x * Vec<T>(T(1.44269504088896340736)) + Vec<T>(C::magic);
  const Vec<T> k = k_magic - Vec<T>(C::magic);
  return exp_scaled(x - k * Vec<T>(C::ln2_high) - k * Vec<T>(C::ln2_low), k_magic);
}

/// 2^(i / size), less what i adds to the bits of an exponent: the whole is a sum of integers.
template <int>
struct Powers;
template <>
struct Powers<8> {
  static constexpr int32_t bits[] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                     0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
};
template <>
struct Powers<16> {
  static constexpr int32_t bits[] = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3,
                                     0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                                     0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                                     0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
};

/// 2^-t for t = scale q, 0 <= t <= 127, with most of the fraction from a table: t = k + i / size +
/// f.
template <int size, class V>
DMMD_INLINE V exp2_minus_by_table(V scale, V q) {
  constexpr int log2_size = size == 16 ? 4 : 3;
  // This sum rounds to a multiple of 1 / size; its low bits are i and, above them, the
  // exponent field.
  const V magic(float(12582912 >> log2_size));
  const V k_magic = magic - scale * q;
  Vec<float>::Bits table;
  std::memcpy(&table, Powers<size>::bits, sizeof table);
  const auto at = k_magic.bits();
  const V power = V::from_bits((at << (23 - log2_size)) + look_up(table, at));
  const V f = scale * q + (k_magic - magic);
  return power + power * (f * polynomial(f, Constants<float>::exp2_minus_near_0));
}

/// Whether 2^-t is a normal number by far, for t up to `most`; not for NaN.
template <class T>
constexpr bool is_normal_power(T most) {
  return most < T(Constants<T>::bias - 2);
}

/// 2^-(scale q) for scale q >= 0, on a vector or a pack of them. What is far below the smallest
/// normal number is 0, unless IsNormal says that there is none such. An infinite q is a large one.
template <bool IsNormal = false, class V>
DMMD_INLINE V exp2_minus(typename V::Element scale, V q) {
  using C = Constants<typename V::Element>;
  if constexpr (!IsNormal) {
    const typename V::Element most = C::bias / scale;
    q = at_most(V(most < C::max ? most : C::max), q);
  }
  if constexpr (sizeof(typename V::Element) == sizeof(float) && kTableSize > 1)
    return exp2_minus_by_table<kTableSize>(V(scale), q);
  // The low bits of this sum are the exponent field of 2^k, k the whole number nearest to -t.
  const V magic(C::magic + C::bias);
  const V k_magic = magic - V(scale) * q;
  const V power = V::from_bits(k_magic.bits() << C::mantissa);
  const V f = V(scale) * q + (k_magic - magic);
  return power + power * (f * polynomial(f, C::exp2_minus));
}

/// 2^-t for t >= 0.
template <class V>
DMMD_INLINE V exp2_minus(V t) {
  return exp2_minus(typename V::Element(1), t);
}

/// 1 / sqrt(u) for u >= 0, but 0 below the smallest normal number.
template <class V>
DMMD_INLINE V inverse_root(V u) {
  using C = Constants<typename V::Element>;
  if constexpr (sizeof(typename V::Element) == sizeof(float)) {
    const V y = rough_rsqrt(u);
    const V e = V(1) - (u * y) * y;  // u^(-1/2) = y (1 - e)^(-1/2)
    const V better = y + (y * e) * (V(0.375f) * e + V(0.5f));
    return select((u < V(C::min_normal)) | (u > V(C::max)), V(0), better);
  } else {
    return select(u < V(C::min_normal), V(0), one_over_root(u));
  }
}

/// u = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2), for normal u > 0.
template <class T>
struct Split {
  Vec<T> k, f;

  explicit DMMD_INLINE Split(Vec<T> u) {
    using C = Constants<T>;
    const auto exponent = (u.bits() - C::sqrt_half) >> C::mantissa;
    k = Vec<T>::from_bits(Vec<T>(C::magic).bits() + exponent) - Vec<T>(C::magic);
    f = Vec<T>::from_bits(u.bits() - (exponent << C::mantissa)) - Vec<T>(1);
  }
};

/// k ln2 + log(1 + f) + rest
template <class T>
DMMD_INLINE Vec<T> log_sum(Vec<T> k, Vec<T> f, Vec<T> rest) {
  using C = Constants<T>;
  const Vec<T> s = f / (f + Vec<T>(2));
  const Vec<T> z = s * s;
  const Vec<T> half = Vec<T>(0.5) * f * f;
  const Vec<T> tail = s * (half + z * polynomial(z, C::log));
  return k * Vec<T>(C::ln2_short) + (f - (half - (tail + (k * Vec<T>(C::ln2_rest) + rest))));
}

/// 2^(a k) exp(a log_f), where a k is a sum of two exact products and not rounded to T.
template <class T>
DMMD_INLINE Vec<T> power_of_split(Vec<T> a, Vec<T> k, Vec<T> log_f) {
  using C = Constants<T>;
  const Vec<T> a_high = Vec<T>::from_bits(a.bits() & C::upper_half);
  const Vec<T> high = a_high * k, low = (a - a_high) * k;
  const Vec<T> y = a * log_f;
  Vec<T> total = high + (low + y * Vec<T>(T(1.44269504088896340736)));
  const auto vanishes = total < Vec<T>(C::min_exponent);
  const auto overflows = total > Vec<T>(C::max_exponent);
  const Vec<T> n_magic = total + Vec<T>(C::magic);
  const Vec<T> n = n_magic - Vec<T>(C::magic);
  const Vec<T> r = ((high - n) + low) * Vec<T>(T(0.693147180559945309417)) + y;
  const Vec<T> value = exp_scaled(r, select(vanishes, Vec<T>(C::magic), n_magic));
  return select(vanishes, Vec<T>(0), select(overflows, Vec<T>(C::max) * Vec<T>(2), value));
}

/// u scaled to a normal number, and the exponent that this took.
template <class T>
DMMD_INLINE Vec<T> normalised(Vec<T>& u) {
  using C = Constants<T>;
  const auto small = u < Vec<T>(C::min_normal);
  u = select(small, u * Vec<T>(C::rescale), u);
  return select(small, Vec<T>(-C::rescale_exponent), Vec<T>(0));
}

/// log u for u > 0
template <class T>
DMMD_INLINE Vec<T> log(Vec<T> u) {
  const Vec<T> given = u;
  const Vec<T> shift = normalised(u);
  const Split<T> split(u);
  const Vec<T> value = log_sum(split.k + shift, split.f, Vec<T>(0));
  return select(given <= Vec<T>(Constants<T>::max), value, given);
}

/// log(1 + t) for t >= 0
template <class T>
DMMD_INLINE Vec<T> log1p(Vec<T> t) {
  const Vec<T> u = t + Vec<T>(1);
  const Split<T> split(u);
  const Vec<T> value = log_sum(split.k, split.f, (t - (u - Vec<T>(1))) / u);
  return select(t <= Vec<T>(Constants<T>::max), value, t);
}

/// u^a for u > 0 and a > 0
template <class T>
DMMD_INLINE Vec<T> pow(Vec<T> u, Vec<T> a) {
  const Vec<T> given = u;
  const Vec<T> shift = normalised(u);
  const Split<T> split(u);
  const Vec<T> log_f = log_sum(Vec<T>(0), split.f, Vec<T>(0));
  const Vec<T> value = power_of_split(a, split.k + shift, log_f);
  return select(given <= Vec<T>(Constants<T>::max), value, given);
}

/// (1 + t)^a for t >= 0 and a < 0
template <class T>
DMMD_INLINE Vec<T> pow1p(Vec<T> t, Vec<T> a) {
  const Vec<T> u = t + Vec<T>(1);
  const Vec<T> inverse = Vec<T>(1) / u;
  const Split<T> split(u);
  const Vec<T> log_f = log_sum(Vec<T>(0), split.f, (t - (u - Vec<T>(1))) * inverse);
  const Vec<T> value = power_of_split(a, split.k, log_f);
  return select(t <= Vec<T>(Constants<T>::max), value, inverse);
}

}  // namespace dmmd::cpu::DMMD_ISA
