// What a flow of few coordinates asks of an instruction set: the pull of a cloud at a few rows.
#pragma once

#include "../dmmd.h"

namespace dmmd::cpu {

constexpr int kFlowRows = 4;
constexpr int64_t kMaxFlowD = 8;
constexpr int64_t kFlowPanel = 128;  // bytes; clouds are padded to it, by columns of weight zero

/// Coordinates that are computed for d of them; those beyond d are zero.
constexpr int64_t padded_d(int64_t d) { return d <= 4 ? d : kMaxFlowD; }

/// g[k, r] += sum_j w_j dK/dz_k(z_r, x_j), for rows r of z (d, kFlowRows) and columns of x.
template <class T>
struct FlowRows {
  const T* z;
  const T *x, *w;           // coordinate k of column j: x[k * pitch + j]
  int64_t count, pitch, d;  // columns up to the next panel have weight zero
  T reach;                  // no |z_r - x_j|^2 is larger
  bool is_uniform;          // all columns have the weight w[0]
  const Component* kernel;  // all radial, or all polynomial
  int64_t components;
  const T* params;  // (components, 3)
  double* g;
};

}  // namespace dmmd::cpu
