// Sums over the pairs of one cloud with itself, each pair once.
#pragma once

#include "../dmmd.h"
#include "memory.h"

namespace dmmd::cpu {

/// The gradients sum_j w_j grad_z K_ij of points z among themselves, in all blocks (blocks, n, d),
/// but for a factor 2. K is radial, and all weights of a block are the same; x is not read.
template <class T>
Memory<double> gradient_within(const Problem<T>& problem, int threads);

}  // namespace dmmd::cpu
