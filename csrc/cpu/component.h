// One component of a kernel on vectors, for first order: K and dK/dq with their constant factors
// taken out, so that these are applied once to a sum and not to every pair.
#pragma once

#include "../profile.h"
#include "math.h"

namespace dmmd::cpu::DMMD_ISA {

/// psi and psi' but for constant factors, on a vector or a pack of them.
template <class V>
struct Pair {
  V value, slope;
};

/// lambda, scale and a of a component, and its degree.
template <class T>
struct Parameters {
  T lambda, scale, shape;
  int degree;
};

constexpr double kLog2e = 1.44269504088896340736;

/// x, or the number nearest to it of which T can add up 64, NaN for NaN: an infinite factor would
/// make NaN of a slope that is zero, and slopes of components are added up.
template <class T>
constexpr T bounded(double x) {
  constexpr double most = double(Constants<T>::max) / 64;
  return x > most ? T(most) : x < -most ? T(-most) : T(x);
}

/// Any profile, by its jet.
template <class S, class T>
struct General {
  static constexpr bool is_common = false;
  T scale, shape, value_factor, slope_factor;
  int degree;

  explicit General(const Parameters<T>& p)
      : scale(p.scale),
        shape(p.shape),
        value_factor(p.lambda),
        slope_factor(bounded<T>(double(p.lambda) * p.scale)),
        degree(p.degree) {}

  DMMD_INLINE Pair<Vec<T>> operator()(Vec<T> q) const {
    const Jet<Vec<T>> jet = S::jet(Vec<T>(scale) * q, Vec<T>(shape), degree);
    return {jet.psi, jet.d};
  }
};

/// exp(-scale q) = 2^(-scale log2(e) q)
template <class T>
struct Gaussian {
  static constexpr bool is_common = true;
  T scale, value_factor, slope_factor;

  explicit Gaussian(const Parameters<T>& p)
      : scale(bounded<T>(p.scale * kLog2e)),
        value_factor(p.lambda),
        slope_factor(bounded<T>(-double(p.lambda) * p.scale)) {}

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    const V psi = exp2_minus(V(scale) * q);
    return {psi, psi};
  }
};

/// A gaussian and one of half its width: their exponents differ by a factor 4, so the second is the
/// fourth power of the first, with four times its error and without an exponential of its own.
template <class T>
struct GaussianPair {
  T scale, value_factor, slope_factor, fourth_value_factor = 0, fourth_slope_factor = 0;

  explicit GaussianPair(const Gaussian<T>& one)
      : scale(one.scale), value_factor(one.value_factor), slope_factor(one.slope_factor) {}

  bool takes(const Gaussian<T>& other) const {
    return fourth_value_factor == 0 && other.scale == 4 * scale;
  }
  void take(const Gaussian<T>& other) {
    fourth_value_factor = other.value_factor;
    fourth_slope_factor = other.slope_factor;
  }

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    const V psi = exp2_minus(V(scale) * q);
    const V square = psi * psi, fourth = square * square;
    return {V(value_factor) * psi + V(fourth_value_factor) * fourth,
            V(slope_factor) * psi + V(fourth_slope_factor) * fourth};
  }
};

/// (1 + t)^(-degree / 2) from the inverse root: rational quadratic with 2 a whole, and imq.
template <class T>
struct HalfRational {
  static constexpr bool is_common = true;
  static constexpr int kMost = 8;
  T scale, value_factor, slope_factor;
  int degree;

  HalfRational(const Parameters<T>& p, int degree)
      : scale(p.scale),
        value_factor(p.lambda),
        slope_factor(bounded<T>(-0.5 * degree * p.lambda * p.scale)),
        degree(degree) {}

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    const V root = inverse_root(V(1) + V(scale) * q);
    V psi = root;
    for (int i = 1; i < degree; ++i) psi = psi * root;
    return {psi, psi * (root * root)};
  }
};

/// exp(-sqrt(scale q)); its slope is taken as 0 at the kink.
template <class T>
struct Laplace {
  static constexpr bool is_common = false;
  T scale, value_factor, slope_factor;

  explicit Laplace(const Parameters<T>& p)
      : scale(bounded<T>(p.scale * (kLog2e * kLog2e))),
        value_factor(p.lambda),
        slope_factor(bounded<T>(-0.5 * kLog2e * p.lambda * p.scale)) {}

  DMMD_INLINE Pair<Vec<T>> operator()(Vec<T> q) const {
    const Vec<T> u = Vec<T>(scale) * q;
    const Vec<T> psi = exp2_minus(sqrt(u));
    return {psi, psi * inverse_root(u)};
  }
};

/// (1 + r) e^-r, or with Second (1 + r + r^2 / 3) e^-r, r = sqrt(scale q).
template <bool Second, class T>
struct Matern {
  static constexpr bool is_common = false;
  T scale, value_factor, slope_factor;

  explicit Matern(const Parameters<T>& p)
      : scale(bounded<T>(p.scale * (kLog2e * kLog2e))),
        value_factor(p.lambda),
        slope_factor(bounded<T>((Second ? -1. / 6 : -0.5) * p.lambda * p.scale)) {}

  DMMD_INLINE Pair<Vec<T>> operator()(Vec<T> q) const {
    using V = Vec<T>;
    const V root = sqrt(V(scale) * q);  // log2(e) r
    const V decay = exp2_minus(root);
    const V r = V(T(1 / kLog2e)) * select(root > V(kFar), V(kFar), root);  // NaN stays
    const V once = decay + r * decay;
    if constexpr (Second) return {once + V(T(1. / 3)) * (r * (r * decay)), once};
    return {once, decay};
  }
  static constexpr T kFar = 1e4;  // 2^-kFar is 0
};

/// -sqrt(scale q); its slope is taken as 0 at the kink.
template <class T>
struct Distance {
  static constexpr bool is_common = false;
  T scale, value_factor, slope_factor;

  explicit Distance(const Parameters<T>& p)
      : scale(p.scale),
        value_factor(-p.lambda),
        slope_factor(bounded<T>(-0.5 * p.lambda * p.scale)) {}

  DMMD_INLINE Pair<Vec<T>> operator()(Vec<T> q) const {
    const Vec<T> u = Vec<T>(scale) * q;
    return {sqrt(u), inverse_root(u)};
  }
};

/// 2 a of a rational quadratic or imq when it is a small whole number, else 0.
template <class T>
DMMD_INLINE int half_degree(Profile profile, T shape) {
  if (profile == Profile::imq) return 1;
  const int twice = shape > 0 && shape <= HalfRational<T>::kMost / 2 ? int(2 * shape) : 0;
  return T(twice) == 2 * shape ? twice : 0;
}

/// body(component) with the fastest form of a component known at run time.
template <class T, class Body>
DMMD_INLINE void with_component(Profile profile, const Parameters<T>& p, Body body) {
  const int degree = half_degree(profile, p.shape);
  switch (profile) {
    case Profile::gaussian:
      return body(Gaussian<T>(p));
    case Profile::rational_quadratic:
      if (degree) return body(HalfRational<T>(p, degree));
      return body(General<Shape<Profile::rational_quadratic>, T>(p));
    case Profile::imq:
      return body(HalfRational<T>(p, degree));
    case Profile::laplace:
      return body(Laplace<T>(p));
    case Profile::matern32:
      return body(Matern<false, T>(p));
    case Profile::matern52:
      return body(Matern<true, T>(p));
    case Profile::energy:
      if (p.shape == T(1)) return body(Distance<T>(p));
      return body(General<Shape<Profile::energy>, T>(p));
    case Profile::square_distance:
      return body(General<Shape<Profile::square_distance>, T>(p));
    case Profile::polynomial:
      return body(General<Shape<Profile::polynomial>, T>(p));
    case Profile::distance:
      return body(Distance<T>(p));
  }
}

}  // namespace dmmd::cpu::DMMD_ISA
