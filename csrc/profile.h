// psi(t; a) and all its derivatives up to second order, for every Profile: the only place where
// compiled code knows a kernel. The same source runs on vectors of the CPU, on scalars and on the
// GPU; what a caller does not read, the compiler removes.
#pragma once

#include <cmath>

#include "dmmd.h"

#ifdef __CUDACC__
#define DMMD_HOST_DEVICE __host__ __device__ inline
#define DMMD_UNROLL _Pragma("unroll")
#else
#define DMMD_UNROLL
#define DMMD_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace dmmd {

template <class V>
struct Jet {
  V psi, d, dd;  // psi, psi', psi''
  V a, da, aa;   // psi_a, psi'_a, psi_aa
};

// Scalar forms of what the CPU's vectors define for themselves.
DMMD_HOST_DEVICE float select(bool yes, float a, float b) { return yes ? a : b; }
DMMD_HOST_DEVICE double select(bool yes, double a, double b) { return yes ? a : b; }
DMMD_HOST_DEVICE long double select(bool yes, long double a, long double b) { return yes ? a : b; }

/// (1 + t)^a
template <class T>
DMMD_HOST_DEVICE T pow1p(T t, T a) {
  return std::exp(a * std::log1p(t));
}

/// u^n for n >= 0
template <class V>
DMMD_HOST_DEVICE V power(V u, int n) {
  V result = V(1);
  for (; n > 0; n >>= 1) {
    if (n & 1) result = result * u;
    u = u * u;
  }
  return result;
}

template <Profile P>
struct Shape;

/// psi = exp(-t)
template <>
struct Shape<Profile::gaussian> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    using std::exp;
    const V psi = exp(-t);
    return {psi, -psi, psi, V(0), V(0), V(0)};
  }
};

/// psi = (1 + t)^(-a)
template <>
struct Shape<Profile::rational_quadratic> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V a, int) {
    using std::log1p;
    const V u = V(1) + t;
    const V psi = pow1p(t, -a);
    const V log_u = log1p(t);
    const V psi_u = psi / u;
    return {psi,
            -a * psi_u,
            a * (a + V(1)) * (psi_u / u),
            -log_u * psi,
            (a * log_u - V(1)) * psi_u,
            log_u * (log_u * psi)};
  }
};

/// psi = (1 + t)^(-1/2)
template <>
struct Shape<Profile::imq> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    using std::sqrt;
    const V u = V(1) + t;
    const V psi = V(1) / sqrt(u);
    const V psi_u = psi / u;
    return {psi, V(-0.5) * psi_u, V(0.75) * (psi_u / u), V(0), V(0), V(0)};
  }
};

// laplace, energy and distance have a kink at t = 0. Their derivatives there are taken as 0: a
// point does not push itself.

/// psi = exp(-r), r = sqrt(t)
template <>
struct Shape<Profile::laplace> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    using std::exp;
    using std::sqrt;
    const auto kink = t == V(0);
    const V r = sqrt(t);
    const V psi = exp(-r);
    const V r_safe = select(kink, V(1), r);
    const V d = V(-0.5) * (psi / r_safe);
    const V dd = V(0.25) * (psi / (r_safe * r_safe)) * (V(1) + V(1) / r_safe);
    return {psi, select(kink, V(0), d), select(kink, V(0), dd), V(0), V(0), V(0)};
  }
};

/// r = sqrt(t), cut where e^-r is 0, so that r e^-r is 0 there; and e^-r.
template <class V>
struct RootDecay {
  V r, decay;

  DMMD_HOST_DEVICE explicit RootDecay(V t) {
    using std::exp;
    using std::sqrt;
    r = sqrt(t);
    r = select(r > V(kFar), V(kFar), r);  // NaN stays
    decay = exp(-r);
  }
  static constexpr float kFar = 1e4f;  // e^-kFar is 0
};

/// psi = (1 + r) e^-r, r = sqrt(t). psi'' has no bound at 0, where it is taken as 0.
template <>
struct Shape<Profile::matern32> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    const RootDecay<V> at(t);
    const auto kink = t == V(0);
    const V dd = V(0.25) * (at.decay / select(kink, V(1), at.r));
    return {
        at.decay + at.r * at.decay, V(-0.5) * at.decay, select(kink, V(0), dd), V(0), V(0), V(0)};
  }
};

/// psi = (1 + r + r^2 / 3) e^-r, r = sqrt(t)
template <>
struct Shape<Profile::matern52> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    const RootDecay<V> at(t);
    const V once = at.decay + at.r * at.decay;
    return {once + V(1. / 3) * (at.r * (at.r * at.decay)),
            V(-1. / 6) * once,
            V(1. / 12) * at.decay,
            V(0),
            V(0),
            V(0)};
  }
};

/// psi = -t^(a/2)
template <>
struct Shape<Profile::energy> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V a, int) {
    using std::log;
    using std::pow;
    const auto kink = t == V(0);
    const V u = select(kink, V(1), t);  // log u = 0 at the kink
    const V h = V(0.5) * a;
    const V rise = select(kink, V(0), pow(u, h));
    const V rise_u = rise / u;
    const V log_u = log(u);
    return {-rise,
            -h * rise_u,
            h * (V(1) - h) * (rise_u / u),
            V(-0.5) * (log_u * rise),
            -(V(0.5) + V(0.5) * h * log_u) * rise_u,
            V(-0.25) * log_u * (log_u * rise)};
  }
};

/// psi = -sqrt(t): the energy profile at a = 1
template <>
struct Shape<Profile::distance> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    using std::log;
    using std::sqrt;
    const auto kink = t == V(0);
    const V rise = sqrt(t);
    const V u = select(kink, V(1), t);
    const V rise_u = select(kink, V(0), V(1) / select(kink, V(1), rise));
    const V log_u = log(u);
    return {-rise,
            V(-0.5) * rise_u,
            V(0.25) * (rise_u / u),
            V(-0.5) * (log_u * rise),
            -(V(0.5) + V(0.25) * log_u) * rise_u,
            V(-0.25) * log_u * (log_u * rise)};
  }
};

/// psi = t
template <>
struct Shape<Profile::square_distance> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V, int) {
    return {t, V(1), V(0), V(0), V(0), V(0)};
  }
};

/// psi = (t + a)^N
template <>
struct Shape<Profile::polynomial> {
  template <class V>
  DMMD_HOST_DEVICE static Jet<V> jet(V t, V a, int degree) {
    const V u = t + a;
    if (degree == 1) return {u, V(1), V(0), V(1), V(0), V(0)};
    const V b = power(u, degree - 2);
    const V psi = b * u * u;
    const V d = V(degree) * (b * u);
    const V dd = V(degree * (degree - 1)) * b;
    return {psi, d, dd, d, dd, dd};
  }
};

/// Calls body(Shape<P>()) for the profile known only at run time.
template <class Body>
inline void with_shape(Profile profile, Body body) {
#define DMMD_CASE(name) \
  case Profile::name:   \
    return body(Shape<Profile::name>());
  switch (profile) {
    DMMD_RADIAL_PROFILES(DMMD_CASE)
    case Profile::polynomial:
      return body(Shape<Profile::polynomial>());
    case Profile::distance:
      return body(Shape<Profile::distance>());
  }
#undef DMMD_CASE
}

}  // namespace dmmd
