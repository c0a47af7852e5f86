// One sweep of a named op, for counting instructions: sweep_once OP N M D. See tests/cpp/count.py.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../csrc/dmmd.h"

using namespace dmmd;

int main(int argc, char** argv) {
  if (argc != 5 || !cpu::limit_instruction_set("avx2")) return 2;
  const std::string op = argv[1];
  const int64_t n = std::atol(argv[2]), m = std::atol(argv[3]), d = std::atol(argv[4]);
  uint32_t state = 1;
  const auto numbers = [&](int64_t count) {  // made cheaply, since their making is counted too
    std::vector<float> v(count);
    for (float& x : v) x = float(int32_t(state = 1664525 * state + 1013904223)) * 0x1p-31f;
    return v;
  };
  const auto z = numbers(n * d), x = numbers(m * d), v = numbers(2 * n), w = numbers(2 * m);
  const auto zt = numbers(n * d);
  const float params[] = {1, 0.5f / float(d), 0};
  const Component gaussian{Profile::gaussian};
  std::vector<float> f(n), g(n * d), q(3), k(op == "kernel_matrix" ? n * m : 0);

  Problem<float> a;
  a.n = n, a.m = m, a.d = d;
  a.z = {z.data(), 0}, a.x = {x.data(), 0}, a.w = {w.data(), 0}, a.params = {params, 0};
  a.kernel = &gaussian;
  a.components = 1;
  if (op == "potential") {
    cpu::potential(a, f.data());
  } else if (op == "potential_grad") {
    cpu::potential_grad(a, g.data());
  } else if (op == "kernel_matrix") {
    cpu::kernel_matrix(a, k.data());
  } else if (op == "tangents") {
    cpu::tangents(a, {{zt.data(), 0}, {}, {}}, f.data(), g.data(), q.data());
  } else if (op == "tangent_grad") {
    cpu::tangents<float>(a, {{zt.data(), 0}, {}, {}}, nullptr, g.data(), nullptr);
  } else if (op == "quadratic_form") {  // of z alone, with all its gradients
    a.p = 2;
    a.v = a.w = {v.data(), 0};
    cpu::quadratic_form(a, f.data(), g.data(), n, q.data());
  } else {
    return 2;
  }
  return 0;
}
