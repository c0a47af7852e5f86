// Counter-based random numbers: Philox 4x32-10, and normal numbers from it by Box-Muller. Host and
// device.
//
// A number is a function of (seed, flow, particle, coordinate, step) alone, so noise is the same on
// every backend and for any number of threads. dmmd_kernels/backends/philox.py has the same
// integers. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011.
#pragma once

#include <cstdint>

#include "profile.h"

namespace dmmd {

struct Words {
  uint32_t a, b, c, d;
};

/// Four words from a counter of four and a key of two, the low and the high word of the seed.
DMMD_HOST_DEVICE Words philox(Words counter, uint64_t seed) {
  Words w = counter;
  uint32_t key = uint32_t(seed), key_high = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t low = uint64_t(0xD2511F53u) * w.a, high = uint64_t(0xCD9E8D57u) * w.c;
    w = {uint32_t(high >> 32) ^ w.b ^ key, uint32_t(high), uint32_t(low >> 32) ^ w.d ^ key_high,
         uint32_t(low)};
    key += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return w;
}

/// Whose noise: the key and three words of the counter; the fourth counts coordinates by fours.
struct Stream {
  uint64_t seed;
  uint32_t flow, step;
};

/// Two normal numbers from two words. Uniforms take 24 bits, which float holds exactly, so that
/// every precision sees the same; the numbers lie within 5.8.
template <class T>
DMMD_HOST_DEVICE void box_muller(uint32_t first, uint32_t second, T (&to)[2]) {
#ifdef __CUDA_ARCH__
  const float radius = sqrtf(-2.f * logf(float((first >> 8) + 1) * 0x1p-24f));
  float sine, cosine;
  sincospif(float(second >> 8) * 0x1p-23f, &sine, &cosine);
#else
  const double radius = std::sqrt(-2 * std::log(double((first >> 8) + 1) * 0x1p-24));
  const double angle = double(second >> 8) * (0x1p-23 * 3.14159265358979323846);
  const double sine = std::sin(angle), cosine = std::cos(angle);
#endif
  to[0] = T(radius * cosine);
  to[1] = T(radius * sine);
}

/// to[0..3]: the normal numbers of coordinates 4 quad .. 4 quad + 3 of a particle.
template <class T>
DMMD_HOST_DEVICE void normals(Stream stream, uint32_t particle, uint32_t quad, T (&to)[4]) {
  const Words w = philox({quad, particle, stream.step, stream.flow}, stream.seed);
  T first[2], second[2];
  box_muller(w.a, w.b, first);
  box_muller(w.c, w.d, second);
  to[0] = first[0], to[1] = first[1], to[2] = second[0], to[3] = second[1];
}

}  // namespace dmmd
