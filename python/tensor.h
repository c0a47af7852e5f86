// A view of a torch tensor, borrowed for one call.
//
// Read through the C exchange API of DLPack 1.3 where torch offers it (half a microsecond for a
// whole call), through Python attributes otherwise. The structs mirror the DLPack ABI
// (https://dmlc.github.io/dlpack), so this extension needs neither torch nor its headers to build.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "../csrc/dmmd.h"

namespace dmmd::python {

namespace py = pybind11;

struct DLDevice {
  int32_t type;  // 1: CPU, 2: CUDA
  int32_t id;
};

struct DLDataType {
  uint8_t code;  // 2: floating point
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  struct {
    uint32_t major, minor;
  } version;
  void* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* object, DLTensor* out);
  void* current_work_stream;
};

// Set once, when native.py is first used.
inline const DLPackExchangeAPI* exchange = nullptr;

/// Takes the capsule torch.Tensor.__dlpack_c_exchange_api__, or None where torch has none.
inline void use_exchange(py::object capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return;
  const auto* api = static_cast<const DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api->version.major == 1 && api->dltensor_from_py_object_no_sync) exchange = api;
}

/// What is read of a torch tensor.
struct View {
  static constexpr int kMaxDims = 4;

  void* data;
  bool is_double;
  int ndim;
  int64_t shape[kMaxDims], strides[kMaxDims];

  py::object stored;  // in place of zeros that torch has not stored

  explicit View(py::handle source) {
    read(source);
    if (data || is_empty()) return;
    if (!source.attr("_is_zerotensor")().cast<bool>())
      throw py::value_error("a tensor of the call has no memory");
    stored = source.attr("clone")();
    read(stored);
  }

 private:
  void read(py::handle source) {
    if (exchange) {
      read_exchange(source.ptr());
    } else {
      read_attributes(source);
    }
  }

  bool is_empty() const {
    for (int i = 0; i < ndim; ++i)
      if (shape[i] == 0) return true;
    return false;
  }

  void set_dims(int64_t count) {
    if (count > kMaxDims) throw py::value_error("a tensor must have at most 4 dimensions");
    ndim = int(count);
  }

  void read_exchange(PyObject* source) {
    DLTensor dl;
    if (exchange->dltensor_from_py_object_no_sync(source, &dl)) throw py::error_already_set();
    data = static_cast<char*>(dl.data) + dl.byte_offset;
    is_double = dl.dtype.bits == 64;
    set_dims(dl.ndim);
    for (int i = 0; i < ndim; ++i) shape[i] = dl.shape[i], strides[i] = dl.strides[i];
  }

  void read_attributes(py::handle source) {
    const py::tuple sizes = source.attr("shape"), steps = source.attr("stride")();
    data = reinterpret_cast<void*>(source.attr("data_ptr")().cast<uintptr_t>());
    is_double = source.attr("element_size")().cast<int>() == 8;
    set_dims(int64_t(sizes.size()));
    for (int i = 0; i < ndim; ++i)
      shape[i] = sizes[size_t(i)].cast<int64_t>(), strides[i] = steps[size_t(i)].cast<int64_t>();
  }
};

/// Contiguous (rows, columns), or (blocks, rows, columns); a vector is one column, for weights
/// where nothing is batched. No data where Python passed None.
struct Tensor {
  void* data = nullptr;
  int64_t blocks = 1, rows = 0, columns = 0;
  bool is_vector = false, is_batched = false, is_double = false;
  py::object stored;

  template <class T>
  Batched<T> batched() const {
    if (data && is_double != (sizeof(T) == sizeof(double)))
      throw py::value_error("all tensors of a call must have one dtype");
    return {static_cast<T*>(data), blocks == 1 ? 0 : rows * columns};
  }

  /// A row for each block, (blocks, columns); a vector is one row for all.
  template <class T>
  Batched<T> row_of_blocks() const {
    return {batched<T>().data, is_vector || rows == 1 ? 0 : columns};
  }

  void read(const View& view) {
    const int ndim = view.ndim;
    if (ndim > 3) throw py::value_error("a tensor must have at most 3 dimensions");
    data = view.data;
    stored = view.stored;
    is_double = view.is_double;
    is_vector = ndim == 1;
    is_batched = ndim == 3;
    blocks = is_batched ? view.shape[0] : 1;
    rows = ndim > 1 ? view.shape[ndim - 2] : ndim > 0 ? view.shape[0] : 1;
    columns = ndim > 1 ? view.shape[ndim - 1] : 1;
  }
};

/// Numbers for each step and block, (steps, blocks, ...), of which either may be 1, for all. Those
/// of one step and block are contiguous; steps and blocks need not follow one another.
struct Table {
  const void* data = nullptr;
  int64_t steps = 1, step_stride = 0, block_stride = 0;
  bool is_double = false;
  py::object stored;

  template <class T>
  Scheduled<T> scheduled() const {
    if (data && is_double != (sizeof(T) == sizeof(double)))
      throw py::value_error("all tensors of a call must have one dtype");
    return {static_cast<const T*>(data), step_stride, block_stride};
  }

  void read(const View& view) {
    if (view.ndim < 2) throw py::value_error("a table must be (steps, blocks, ...)");
    data = view.data;
    stored = view.stored;
    is_double = view.is_double;
    steps = view.shape[0];
    step_stride = steps == 1 ? 0 : view.strides[0];
    block_stride = view.shape[1] == 1 ? 0 : view.strides[1];
  }
};

}  // namespace dmmd::python

namespace pybind11::detail {

template <class Read>
struct tensor_caster {
  PYBIND11_TYPE_CASTER(Read, const_name("torch.Tensor | None"));

  bool load(handle source, bool) {
    if (!source.is_none()) value.read(dmmd::python::View(source));
    return true;
  }
};

template <>
struct type_caster<dmmd::python::Tensor> : tensor_caster<dmmd::python::Tensor> {};
template <>
struct type_caster<dmmd::python::Table> : tensor_caster<dmmd::python::Table> {};

}  // namespace pybind11::detail
