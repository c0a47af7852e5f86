// The Python module dmmd_kernels._C: one function per function of csrc/dmmd.h.
//
// dmmd_kernels/backends/native.py is its only caller. It passes contiguous CPU tensors of one
// dtype, has checked every shape, and has allocated the results.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor.h"

namespace py = pybind11;
using dmmd::Component;
using dmmd::Problem;
using dmmd::Profile;
using dmmd::python::Table;
using dmmd::python::Tensor;

namespace {

/// "gaussian+polynomial3", parsed.
struct Kernel {
  std::vector<Component> components;
  bool high = false;  // whether points may be multiplied with fewer digits
};

Component parse(const std::string& name) {
#define DMMD_NAMED(name) {#name, Profile::name},
  static const struct {
    const char* name;
    Profile profile;
  } known[] = {DMMD_RADIAL_PROFILES(DMMD_NAMED)};
#undef DMMD_NAMED
  for (const auto& k : known)
    if (name == k.name) return {k.profile};
  if (name.rfind("polynomial", 0) == 0) return {Profile::polynomial, std::stoi(name.substr(10))};
  throw py::value_error("unknown profile '" + name + "'");
}

Kernel parse_sum(const std::string& profiles, bool high) {
  Kernel kernel{{}, high};
  for (size_t start = 0; start <= profiles.size();) {
    const size_t end = std::min(profiles.find('+', start), profiles.size());
    kernel.components.push_back(parse(profiles.substr(start, end - start)));
    start = end + 1;
  }
  return kernel;
}

/// How many blocks a call with these tensors has, and its results.
int64_t common_blocks(std::initializer_list<const Tensor*> tensors, const Tensor& w) {
  int64_t blocks = 1;
  for (const Tensor* t : tensors) {
    if (t->is_batched && w.is_vector) throw py::value_error("weights of a batch must be columns");
    if (t->is_batched && t->blocks != 1) blocks = t->blocks;
  }
  return blocks;
}

template <class T>
Problem<T> problem(const Tensor& z, const Tensor& x, const Tensor& v, const Tensor& w,
                   const Tensor& params, const Kernel& kernel, bool skip_diagonal, int threads) {
  Problem<T> a;
  a.blocks = common_blocks({&z, &x, &v, &w, &params}, w);
  a.n = z.rows;
  a.m = x.rows;
  a.d = z.columns;
  a.p = w.columns;
  a.z = z.batched<const T>();
  a.x = x.batched<const T>();
  a.v = v.batched<const T>();
  a.w = w.batched<const T>();
  a.params = params.batched<const T>();
  a.kernel = kernel.components.data();
  a.components = int64_t(kernel.components.size());
  a.skip_diagonal = skip_diagonal;
  a.high = kernel.high;
  a.threads = threads;
  return a;
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data);
}

/// Calls body(T()) for the dtype of z, without the GIL.
template <class Body>
void with_dtype(const Tensor& z, Body body) {
  py::gil_scoped_release release;
  z.is_double ? body(double()) : body(float());
}

void potential(Tensor z, Tensor x, Tensor w, Tensor params, const Kernel& kernel, bool skip,
               int threads, Tensor f) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::potential(problem<T>(z, x, {}, w, params, kernel, skip, threads), data<T>(f));
  });
}

void potential_grad(Tensor z, Tensor x, Tensor v, Tensor w, Tensor params, const Kernel& kernel,
                    bool skip, int threads, Tensor g) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::potential_grad(problem<T>(z, x, v, w, params, kernel, skip, threads), data<T>(g));
  });
}

void potential_and_grad(Tensor z, Tensor x, Tensor w, Tensor params, const Kernel& kernel,
                        int threads, Tensor f, Tensor g) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::potential_and_grad(problem<T>(z, x, {}, w, params, kernel, false, threads),
                                  data<T>(f), data<T>(g));
  });
}

void params_grad(Tensor z, Tensor x, Tensor v, Tensor w, Tensor params, const Kernel& kernel,
                 bool skip, int threads, Tensor q) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::params_grad(problem<T>(z, x, v, w, params, kernel, skip, threads), data<T>(q));
  });
}

void tangents(Tensor z, Tensor x, Tensor v, Tensor w, Tensor params, const Kernel& kernel, Tensor a,
              Tensor b, Tensor c, bool skip, int threads, Tensor f, Tensor g, Tensor q) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    Problem<T> p = problem<T>(z, x, v, w, params, kernel, skip, threads);
    p.blocks = common_blocks({&z, &x, &v, &w, &params, &a, &b, &c}, w);
    dmmd::cpu::tangents(p, {a.batched<const T>(), b.batched<const T>(), c.batched<const T>()},
                        data<T>(f), data<T>(g), data<T>(q));
  });
}

void kernel_matrix(Tensor z, Tensor x, Tensor params, const Kernel& kernel, int threads, Tensor k) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::kernel_matrix(problem<T>(z, x, {}, {}, params, kernel, false, threads), data<T>(k));
  });
}

void quadratic_form(Tensor u, Tensor v, Tensor w, Tensor params, const Kernel& kernel, bool skip,
                    int threads, Tensor s, Tensor g, Tensor q) {
  with_dtype(u, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::quadratic_form(problem<T>(u, u, v, w, params, kernel, skip, threads), data<T>(s),
                              data<T>(g), g.rows, data<T>(q));
  });
}

template <class T>
dmmd::Cloud<T> cloud(const Tensor& x, const Tensor& w, const Tensor& o, const Tensor& result,
                     int threads) {
  return {.blocks = result.blocks,
          .n = x.rows,
          .d = x.columns,
          .x = x.batched<const T>(),
          .w = w.batched<const T>(),
          .o = o.batched<const T>(),
          .threads = threads};
}

void row_sums(Tensor x, Tensor w, Tensor o, int threads, Tensor s, Tensor q) {
  with_dtype(x, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::row_sums(cloud<T>(x, w, o, s, threads), data<T>(s), data<T>(q));
  });
}

void row_sums_grad(Tensor x, Tensor w, Tensor o, Tensor a, Tensor b, int threads, Tensor g) {
  with_dtype(x, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::row_sums_grad(cloud<T>(x, w, o, g, threads), a.batched<const T>(),
                             b.batched<const T>(), data<T>(g));
  });
}

template <class T>
dmmd::ScheduledKernel<T> scheduled(const Table& params, const Kernel& kernel) {
  if (!params.data) return {};
  return {kernel.components.data(), int64_t(kernel.components.size()), params.scheduled<T>()};
}

/// How particles move, and where their noise comes from.
struct Motion {
  double momentum, max_norm;
  uint64_t seed;
  int64_t first_flow, first_step;
};

template <class T>
dmmd::Flow<T> make_flow(const Tensor& x, const Tensor& velocity, const Tensor& y, const Tensor& w,
                        const Table& radial_params, const Kernel& radial,
                        const Table& polynomial_params, const Kernel& polynomial,
                        const Table& step_size, const Table& noise, const Motion& motion,
                        const Tensor& failed, int threads) {
  return {.blocks = x.blocks,
          .n = x.rows,
          .m = y.rows,
          .d = x.columns,
          .steps = step_size.steps,
          .x = x.batched<T>(),
          .velocity = velocity.batched<T>(),
          .y = y.batched<const T>(),
          .w = w.row_of_blocks<const T>(),
          .radial = scheduled<T>(radial_params, radial),
          .polynomial = scheduled<T>(polynomial_params, polynomial),
          .step_size = step_size.scheduled<T>(),
          .noise = noise.scheduled<T>(),
          .momentum = T(motion.momentum),
          .max_norm = T(motion.max_norm),
          .seed = motion.seed,
          .first_flow = motion.first_flow,
          .first_step = motion.first_step,
          .failed = data<int64_t>(failed),
          .threads = threads};
}

void flow(Tensor x, Tensor velocity, Tensor y, Tensor w, Table radial_params, const Kernel& radial,
          Table polynomial_params, const Kernel& polynomial, Table step_size, Table noise,
          const Motion& motion, Tensor failed, int threads) {
  with_dtype(x, [&](auto one) {
    dmmd::cpu::flow(make_flow<decltype(one)>(x, velocity, y, w, radial_params, radial,
                                             polynomial_params, polynomial, step_size, noise,
                                             motion, failed, threads));
  });
}

/// As flow, for tensors of the current CUDA device, queued on a stream.
void flow_on_gpu(Tensor x, Tensor velocity, Tensor y, Tensor w, Table radial_params,
                 const Kernel& radial, Table polynomial_params, const Kernel& polynomial,
                 Table step_size, Table noise, const Motion& motion, Tensor failed,
                 Tensor workspace, uintptr_t stream) {
  py::gil_scoped_release release;
  const auto flow = make_flow<float>(x, velocity, y, w, radial_params, radial, polynomial_params,
                                     polynomial, step_size, noise, motion, failed, 1);
  if (workspace.columns < dmmd::cuda::flow_workspace(flow))
    throw std::invalid_argument("flow_on_gpu: the workspace is too small");
  dmmd::cuda::flow(flow, workspace.data, reinterpret_cast<void*>(stream));
}

dmmd::Flow<float> sizes(int64_t blocks, int64_t n, int64_t m, int64_t d) {
  dmmd::Flow<float> flow;
  flow.blocks = blocks, flow.n = n, flow.m = m, flow.d = d;
  return flow;
}

/// Bytes that flow_on_gpu works in, for particles (blocks, n, d) and m data points.
int64_t flow_workspace(int64_t blocks, int64_t n, int64_t m, int64_t d) {
  return dmmd::cuda::flow_workspace(sizes(blocks, n, m, d));
}

/// How flow_on_gpu would run it on the current device.
std::string flow_plan(int64_t blocks, int64_t n, int64_t m, int64_t d) {
  return dmmd::cuda::flow_plan(sizes(blocks, n, m, d));
}

void flow_update(Tensor z, Tensor velocity, Tensor g, Table step_size, Table noise,
                 const Motion& motion, int threads) {
  with_dtype(z, [&](auto one) {
    using T = decltype(one);
    dmmd::cpu::flow_update(dmmd::Update<T>{.blocks = z.blocks,
                                           .n = z.rows,
                                           .d = z.columns,
                                           .z = z.batched<T>(),
                                           .velocity = velocity.batched<T>(),
                                           .g = g.batched<const T>(),
                                           .step_size = step_size.scheduled<T>(),
                                           .noise = noise.scheduled<T>(),
                                           .momentum = T(motion.momentum),
                                           .max_norm = T(motion.max_norm),
                                           .seed = motion.seed,
                                           .first_flow = motion.first_flow,
                                           .step = motion.first_step,
                                           .threads = threads});
  });
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  py::class_<Kernel>(m, "Kernel")
      .def(py::init(&parse_sum), py::arg("profiles"), py::arg("high") = false);
  py::class_<Motion>(m, "Motion").def(py::init<double, double, uint64_t, int64_t, int64_t>());
  m.attr("built_with_cuda") = dmmd::cuda::built();
#define DMMD_NAME(name) #name,
  m.attr("profiles") = std::vector<std::string>{DMMD_RADIAL_PROFILES(DMMD_NAME) "polynomial"};
#undef DMMD_NAME
  m.def("use_exchange", &dmmd::python::use_exchange);
  m.def("instruction_set", &dmmd::cpu::instruction_set);
  m.def("instruction_sets", &dmmd::cpu::instruction_sets);
  m.def("limit_instruction_set", &dmmd::cpu::limit_instruction_set);
  m.def("tile_unit", &dmmd::cpu::tile_unit_name);
  m.def("thread_model", &dmmd::cpu::thread_model);
  m.def("potential", &potential);
  m.def("potential_grad", &potential_grad);
  m.def("potential_and_grad", &potential_and_grad);
  m.def("params_grad", &params_grad);
  m.def("tangents", &tangents);
  m.def("kernel_matrix", &kernel_matrix);
  m.def("quadratic_form", &quadratic_form);
  m.def("row_sums", &row_sums);
  m.def("row_sums_grad", &row_sums_grad);
  m.def("flow", &flow);
  m.def("flow_on_gpu", &flow_on_gpu);
  m.def("flow_workspace", &flow_workspace);
  m.def("flow_plan", &flow_plan);
  m.def("flow_update", &flow_update);
  m.attr("max_gpu_flow_d") = dmmd::cuda::kMaxFlowD;
  m.attr("max_gpu_flow_components") = dmmd::cuda::kMaxFlowComponents;
}
