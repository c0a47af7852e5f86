// Every function of csrc/dmmd.h as its formula, pair by pair in one type R: what the library is
// tested against, with R = long double.
#pragma once

#include <array>
#include <vector>

#include "../../csrc/profile.h"

namespace naive {

using namespace dmmd;

// ThreadSanitizer looks for races of the library, and would watch every number of a formula too.
#ifdef __SANITIZE_THREAD__
constexpr bool kTooSlow = true;
#else
constexpr bool kTooSlow = false;
#endif

constexpr int64_t kMostComponents = 4;

/// K, its gradient (dq, dlambda_l, dscale_l, da_l), and both along a direction.
template <class R>
struct Pair {
  R k = 0, k_q = 0, kt = 0, kt_q = 0;
  std::array<R, 3 * kMostComponents> k_params, kt_params;
};

template <class R, class T>
Pair<R> pair(const Problem<T>& a, int64_t block, R q, R qt, const T* c) {
  Pair<R> out;
  for (int64_t l = 0; l < a.components; ++l) {
    const T* row = a.params.block(block) + 3 * l;
    const R w = row[0], s = row[1];
    const R cw = c ? c[3 * l] : 0, cs = c ? c[3 * l + 1] : 0, ca = c ? c[3 * l + 2] : 0;
    with_shape(a.kernel[l].profile, [&](auto shape) {
      const R t = s * q;
      const Jet<R> j = shape.jet(t, R(row[2]), a.kernel[l].degree);
      const R k_qs = w * (j.d + t * j.dd);
      out.k += w * j.psi;
      out.k_q += w * s * j.d;
      out.kt += w * s * j.d * qt + cw * j.psi + cs * w * q * j.d + ca * w * j.a;
      out.kt_q += w * s * s * j.dd * qt + cw * s * j.d + cs * k_qs + ca * w * s * j.da;
      R *p = &out.k_params.at(3 * l), *pt = &out.kt_params.at(3 * l);
      p[0] = j.psi, p[1] = w * q * j.d, p[2] = w * j.a;
      pt[0] = s * j.d * qt + cs * q * j.d + ca * j.a;
      pt[1] = k_qs * qt + cw * q * j.d + cs * w * q * q * j.dd + ca * w * q * j.da;
      pt[2] = w * s * j.da * qt + cw * j.a + cs * w * q * j.da + ca * w * j.aa;
    });
  }
  return out;
}

/// All results of one problem; those that a function does not ask for cost nothing that matters.
template <class R>
struct Results {
  std::vector<R> f, g, q, k, ft, gt, qt;
  std::vector<R> form, form_g, form_q, gt_alone;  // the last three of the library alone
};

template <class R, class T>
Results<R> all(const Problem<T>& a, const cpu::Direction<T>& to = {}) {
  const int64_t n = a.n, m = a.m, d = a.d, p = a.p, L3 = 3 * a.components;
  const bool radial = a.kernel[0].profile != Profile::polynomial;
  Results<R> out;
  for (auto* f : {&out.f, &out.ft}) f->assign(a.blocks * n * p, 0);
  for (auto* g : {&out.g, &out.gt}) g->assign(a.blocks * n * d, 0);
  for (auto* q : {&out.q, &out.qt}) q->assign(a.blocks * L3, 0);
  out.k.assign(a.blocks * n * m, 0);
  out.form.assign(a.blocks, 0);

  for (int64_t b = 0; b < a.blocks; ++b)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        const T *z = a.z.block(b) + i * d, *x = a.x.block(b) + j * d;
        const T* w = a.w ? a.w.block(b) + j * p : nullptr;
        const T* v = a.v ? a.v.block(b) + i * p : nullptr;
        const T* zt = to.z ? to.z.block(b) + i * d : nullptr;
        const T* xt = to.x ? to.x.block(b) + j * d : nullptr;
        R q = 0, qt = 0, c = 0;
        for (int64_t e = 0; e < d; ++e) {
          const R diff = R(z[e]) - R(x[e]);
          const R zte = zt ? zt[e] : 0, xte = xt ? xt[e] : 0;
          q += radial ? diff * diff : R(z[e]) * R(x[e]);
          qt += radial ? 2 * diff * (zte - xte) : zte * R(x[e]) + R(z[e]) * xte;
        }
        for (int64_t e = 0; w && e < p; ++e) c += (v ? R(v[e]) : 1) * R(w[e]);
        const Pair<R> k = pair<R>(a, b, q, qt, to.params ? to.params.block(b) : nullptr);
        out.k[(b * n + i) * m + j] = k.k;
        if (a.skip_diagonal && i == j) continue;
        out.form[b] += c * k.k;
        for (int64_t e = 0; w && e < p; ++e) {
          out.f[(b * n + i) * p + e] += R(w[e]) * k.k;
          out.ft[(b * n + i) * p + e] += R(w[e]) * k.kt;
        }
        for (int64_t e = 0; e < d; ++e) {
          const R diff = R(z[e]) - R(x[e]);
          const R zte = zt ? zt[e] : 0, xte = xt ? xt[e] : 0;
          out.g[(b * n + i) * d + e] += c * k.k_q * (radial ? 2 * diff : R(x[e]));
          out.gt[(b * n + i) * d + e] += c * (k.kt_q * (radial ? 2 * diff : R(x[e])) +
                                              k.k_q * (radial ? 2 * (zte - xte) : xte));
        }
        for (int64_t e = 0; e < L3; ++e) {
          out.q[b * L3 + e] += c * k.k_params[e];
          out.qt[b * L3 + e] += c * k.kt_params[e];
        }
      }
  return out;
}

}  // namespace naive
