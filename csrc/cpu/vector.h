// One vector register of T, as wide as the instruction set this file is compiled for.
//
// The sources of the sweep are compiled once per instruction set, each time into a namespace of
// its own (DMMD_ISA) and with its own width (DMMD_VECTOR_BYTES). They must not instantiate inline
// functions of the standard library: the linker would keep one copy for all instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#ifdef DMMD_SANITIZED  // what is forced inline there takes the compiler minutes
#define DMMD_INLINE inline
#else
#define DMMD_INLINE inline __attribute__((always_inline))
#endif

namespace dmmd::cpu::DMMD_ISA {

#define DMMD_REGISTER __attribute__((vector_size(DMMD_VECTOR_BYTES)))
#define DMMD_UNALIGNED(T) \
  __attribute__((vector_size(DMMD_VECTOR_BYTES), aligned(sizeof(T)), may_alias))

template <class T>
struct Register;
template <>
struct Register<float> {
  typedef float Native DMMD_REGISTER;
  typedef float Unaligned DMMD_UNALIGNED(float);
  typedef int32_t Bits DMMD_REGISTER;
};
template <>
struct Register<double> {
  typedef double Native DMMD_REGISTER;
  typedef double Unaligned DMMD_UNALIGNED(double);
  typedef int64_t Bits DMMD_REGISTER;
};

template <class T>
struct Vec {
  using Element = T;
  static constexpr int size = DMMD_VECTOR_BYTES / sizeof(T);
  using Native = typename Register<T>::Native;
  using Unaligned = typename Register<T>::Unaligned;
  using Bits = typename Register<T>::Bits;

  Native v;

  Vec() = default;
  DMMD_INLINE Vec(Native native) : v(native) {}
  DMMD_INLINE Vec(T s) : v(s - Native{}) {}  // s - 0 is s, -0 included
  template <class Number>
  DMMD_INLINE explicit Vec(Number s) : Vec(T(s)) {}

  static DMMD_INLINE Vec load(const T* p) { return Vec(*reinterpret_cast<const Unaligned*>(p)); }
  DMMD_INLINE void store(T* p) const { *reinterpret_cast<Unaligned*>(p) = v; }

  /// Past the caches; p lies on a whole vector.
  DMMD_INLINE void stream(T* p) const {
#if DMMD_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif DMMD_VECTOR_BYTES == 32
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
    store(p);
#endif
  }

  static DMMD_INLINE Vec from_bits(Bits bits) { return Vec((Native)bits); }
  DMMD_INLINE Bits bits() const { return (Bits)v; }

  DMMD_INLINE Vec operator-() const { return Vec(-v); }
  friend DMMD_INLINE Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  friend DMMD_INLINE Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  friend DMMD_INLINE Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  friend DMMD_INLINE Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  friend DMMD_INLINE Bits operator==(Vec a, Vec b) { return a.v == b.v; }
  friend DMMD_INLINE Bits operator<(Vec a, Vec b) { return a.v < b.v; }
  friend DMMD_INLINE Bits operator<=(Vec a, Vec b) { return a.v <= b.v; }
  friend DMMD_INLINE Bits operator>(Vec a, Vec b) { return a.v > b.v; }
  friend DMMD_INLINE Vec select(Bits yes, Vec a, Vec b) { return Vec(yes ? a.v : b.v); }
};

/// What was streamed is seen by other threads from here on.
DMMD_INLINE void finish_streams() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

DMMD_INLINE Vec<float> sqrt(Vec<float> a) {
#if DMMD_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_ps(0xffff, a.v);
#elif DMMD_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(a.v);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(a.v);
#else
  for (int i = 0; i < a.size; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
#endif
}

DMMD_INLINE Vec<double> sqrt(Vec<double> a) {
#if DMMD_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_pd(0xff, a.v);
#elif DMMD_VECTOR_BYTES == 32
  return _mm256_sqrt_pd(a.v);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(a.v);
#else
  for (int i = 0; i < a.size; ++i) a.v[i] = __builtin_sqrt(a.v[i]);
  return a;
#endif
}

/// The lanes of a register of floats as a table; 1 where there is no instruction to read it by
/// lanes.
#if DMMD_VECTOR_BYTES >= 32
constexpr int kTableSize = DMMD_VECTOR_BYTES / 4;
#else
constexpr int kTableSize = 1;
#endif

/// table[at mod kTableSize] in each lane.
DMMD_INLINE Vec<float>::Bits look_up(Vec<float>::Bits table, Vec<float>::Bits at) {
#if DMMD_VECTOR_BYTES == 64
  return (Vec<float>::Bits)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)at, (__m512i)table);
#elif DMMD_VECTOR_BYTES == 32
  return (Vec<float>::Bits)_mm256_permutevar8x32_epi32((__m256i)table, (__m256i)at);
#else
  return at * 0 + table;
#endif
}

/// Several registers that go through the same operations side by side: chains of dependent
/// operations leave a processor idle, unless others stand between their links.
template <class T, int N>
struct Pack {
  using Element = T;
  using One = Vec<T>;

  /// Of each register, its bits or a condition.
  struct Bits {
    typename One::Bits b[N];

    friend DMMD_INLINE Bits operator<<(Bits a, int count) {
      for (auto& one : a.b) one = one << count;
      return a;
    }
    friend DMMD_INLINE Bits operator|(Bits a, Bits b) {
      for (int i = 0; i < N; ++i) a.b[i] |= b.b[i];
      return a;
    }
    friend DMMD_INLINE Bits operator+(Bits a, Bits b) {
      for (int i = 0; i < N; ++i) a.b[i] += b.b[i];
      return a;
    }
    friend DMMD_INLINE Bits look_up(typename One::Bits table, Bits at) {
      for (auto& one : at.b) one = look_up(table, one);
      return at;
    }
  };

  One v[N];

  Pack() = default;
  template <class Number>
  DMMD_INLINE explicit Pack(Number s) {
    for (One& one : v) one = One(T(s));
  }
  DMMD_INLINE explicit Pack(One one) {
    for (One& each : v) each = one;
  }

  static DMMD_INLINE Pack from_bits(Bits bits) {
    Pack p;
    for (int i = 0; i < N; ++i) p.v[i] = One::from_bits(bits.b[i]);
    return p;
  }
  DMMD_INLINE Bits bits() const {
    Bits bits;
    for (int i = 0; i < N; ++i) bits.b[i] = v[i].bits();
    return bits;
  }

#define DMMD_EACH(op)                                      \
  friend DMMD_INLINE Pack operator op(Pack a, Pack b) {    \
    for (int i = 0; i < N; ++i) a.v[i] = a.v[i] op b.v[i]; \
    return a;                                              \
  }
  DMMD_EACH(+)
  DMMD_EACH(-)
  DMMD_EACH(*)
#undef DMMD_EACH
#define DMMD_EACH(op)                                      \
  friend DMMD_INLINE Bits operator op(Pack a, Pack b) {    \
    Bits c;                                                \
    for (int i = 0; i < N; ++i) c.b[i] = a.v[i] op b.v[i]; \
    return c;                                              \
  }
  DMMD_EACH(<)
  DMMD_EACH(>)
#undef DMMD_EACH
  friend DMMD_INLINE Pack select(Bits yes, Pack a, Pack b) {
    for (int i = 0; i < N; ++i) a.v[i] = select(yes.b[i], a.v[i], b.v[i]);
    return a;
  }
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

template <class T, int N>
DMMD_INLINE Pack<T, N> at_most(Pack<T, N> bound, Pack<T, N> q) {
  for (int i = 0; i < N; ++i) q.v[i] = at_most(bound.v[i], q.v[i]);
  return q;
}

/// About 1 / sqrt(a), good to 12 bits or more, for normal a.
DMMD_INLINE Vec<float> rough_rsqrt(Vec<float> a) {
#if DMMD_VECTOR_BYTES == 64
  return _mm512_maskz_rsqrt14_ps(0xffff, a.v);
#elif DMMD_VECTOR_BYTES == 32
  return _mm256_rsqrt_ps(a.v);
#elif defined(__SSE2__)
  return _mm_rsqrt_ps(a.v);
#else
  return Vec<float>(1) / sqrt(a);
#endif
}

/// 1 / sqrt(a)
DMMD_INLINE Vec<double> one_over_root(Vec<double> a) { return Vec<double>(1) / sqrt(a); }

template <int N>
DMMD_INLINE Pack<double, N> one_over_root(Pack<double, N> a) {
  for (auto& one : a.v) one = one_over_root(one);
  return a;
}

template <int N>
DMMD_INLINE Pack<float, N> rough_rsqrt(Pack<float, N> a) {
  for (auto& one : a.v) one = rough_rsqrt(one);
  return a;
}

/// One bit for each lane that is set.
template <class Bits>
DMMD_INLINE uint32_t lanes_of(Bits bits) {
  uint32_t mask = 0;
#if DMMD_VECTOR_BYTES == 64
  mask = sizeof(bits[0]) == 4 ? uint32_t(_mm512_movepi32_mask((__m512i)bits))
                              : uint32_t(_mm512_movepi64_mask((__m512i)bits));
#elif DMMD_VECTOR_BYTES == 32
  mask = sizeof(bits[0]) == 4 ? uint32_t(_mm256_movemask_ps((__m256)bits))
                              : uint32_t(_mm256_movemask_pd((__m256d)bits));
#elif defined(__SSE2__)
  mask = sizeof(bits[0]) == 4 ? uint32_t(_mm_movemask_ps((__m128)bits))
                              : uint32_t(_mm_movemask_pd((__m128d)bits));
#else
  for (int i = 0; i < int(sizeof(bits) / sizeof(bits[0])); ++i) mask |= uint32_t(bits[i] & 1) << i;
#endif
  return mask;
}

template <class T, class V>
DMMD_INLINE double sum_halves(V a) {
  constexpr int count = sizeof(V) / sizeof(T);
  if constexpr (count == 2) {
    return double(a[0]) + double(a[1]);
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &a, sizeof halves);
    return sum_halves<T, Half>(halves[0] + halves[1]);
  }
}

/// The sum of the lanes, half to half.
template <class T>
DMMD_INLINE double sum(Vec<T> a) {
  return sum_halves<T>(a.v);
}

template <class T>
struct FourLanes;
template <>
struct FourLanes<float> {
  typedef float type __attribute__((vector_size(16)));
};
template <>
struct FourLanes<double> {
  typedef double type __attribute__((vector_size(32)));
};

/// to[r] += sum(a[r]) for r = 0..3
template <class T>
DMMD_INLINE void add_sums(const Vec<T> (&a)[4], double* to) {
  if constexpr (Vec<T>::size < 4) {
    for (int r = 0; r < 4; ++r) to[r] += sum(a[r]);
  } else {
    using Four = typename FourLanes<T>::type;
    Four fold[4];
    for (int r = 0; r < 4; ++r) {
      Four parts[Vec<T>::size / 4];
      std::memcpy(parts, &a[r].v, sizeof parts);
      fold[r] = parts[0];
      for (int i = 1; i < Vec<T>::size / 4; ++i) fold[r] += parts[i];
    }
    const Four low = __builtin_shufflevector(fold[0], fold[1], 0, 4, 2, 6) +
                     __builtin_shufflevector(fold[0], fold[1], 1, 5, 3, 7);
    const Four high = __builtin_shufflevector(fold[2], fold[3], 0, 4, 2, 6) +
                      __builtin_shufflevector(fold[2], fold[3], 1, 5, 3, 7);
    const Four s = __builtin_shufflevector(low, high, 0, 1, 4, 5) +
                   __builtin_shufflevector(low, high, 2, 3, 6, 7);
    for (int r = 0; r < 4; ++r) to[r] += double(s[r]);
  }
}

}  // namespace dmmd::cpu::DMMD_ISA
