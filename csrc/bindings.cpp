// SPDX-License-Identifier: BSD-3-Clause
// The module `_C`: every launcher under its op's name, `cpu` always and `cuda` where it was built.
// The only file that knows Python. torch tensors are read by attribute; torch is never included.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/parallel.h"
#include "cpu/launchers.h"
#ifdef FT_WITH_CUDA
#include "cuda/decoder_stack.h"
#include "cuda/launchers.h"
#endif

namespace py = pybind11;

namespace {

constexpr int kNumDTypes = 7;

struct Names {
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* stride = PyUnicode_InternFromString("stride");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* is_cuda = PyUnicode_InternFromString("is_cuda");
  PyObject* dtypes[kNumDTypes];

  Names() {
    static const char* kDTypes[kNumDTypes] = {"float32", "bfloat16", "float16", "int32",
                                              "int64",   "int8",     "uint8"};
    const py::module_ torch = py::module_::import("torch");
    for (int i = 0; i < kNumDTypes; ++i)
      dtypes[i] = py::object(torch.attr(kDTypes[i])).release().ptr();
  }
};

const Names& names() {
  static const Names* const instance = new Names();  // lives as long as the interpreter
  return *instance;
}

void read_sizes(const py::object& sizes, int64_t* to, int count) {
  PyObject* const tuple = sizes.ptr();
  for (int i = 0; i < count; ++i) to[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
}

ft::Tensor read_tensor(py::handle tensor) {
  const auto call = [&](PyObject* name) {
    PyObject* result = PyObject_CallMethodNoArgs(tensor.ptr(), name);
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  };
  const auto get = [&](PyObject* name) {
    PyObject* result = PyObject_GetAttr(tensor.ptr(), name);
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  };
  ft::Tensor view{};
  view.data = PyLong_AsVoidPtr(call(names().data_ptr).ptr());
  const py::object shape = get(names().shape);
  view.ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  if (view.ndim > ft::kMaxDims) throw py::value_error("a tensor has more than 6 dimensions");
  read_sizes(shape, view.shape, view.ndim);
  read_sizes(call(names().stride), view.strides, view.ndim);
  const py::object dtype = get(names().dtype);
  int index = 0;
  while (index < kNumDTypes && names().dtypes[index] != dtype.ptr()) ++index;
  if (index == kNumDTypes)
    throw py::value_error("no kernel takes tensors of " + py::str(dtype).cast<std::string>());
  view.dtype = static_cast<ft::DType>(index);
  view.is_cuda = get(names().is_cuda).ptr() == Py_True;
  return view;
}

}  // namespace

namespace pybind11::detail {

template <>
struct type_caster<ft::Tensor> {
  PYBIND11_TYPE_CASTER(ft::Tensor, const_name("torch.Tensor"));
  bool load(handle source, bool) {
    if (source.is_none()) return false;
    value = read_tensor(source);
    return true;
  }
};

}  // namespace pybind11::detail

namespace {

#define FT_BIND(space, name) \
  module.def(#name, &ft::space::name, py::call_guard<py::gil_scoped_release>())

#define FT_BIND_CPU(set)                         \
  void bind_##set(py::module_ module) {          \
    FT_BIND(cpu::set, rms_norm);                 \
    FT_BIND(cpu::set, add_rms_norm);             \
    FT_BIND(cpu::set, layer_norm);               \
    FT_BIND(cpu::set, add_layer_norm);           \
    FT_BIND(cpu::set, activation);               \
    FT_BIND(cpu::set, gated_activation);         \
    FT_BIND(cpu::set, add_positions);            \
    FT_BIND(cpu::set, rope);                     \
    FT_BIND(cpu::set, kv_write);                 \
    FT_BIND(cpu::set, paged_attention);          \
    FT_BIND(cpu::set, disentangled_attention);   \
    FT_BIND(cpu::set, encoder_attention);        \
    FT_BIND(cpu::set, skinny_linear);            \
    FT_BIND(cpu::set, skinny_gated_linear);      \
    FT_BIND(cpu::set, skinny_logits);            \
    FT_BIND(cpu::set, skinny_linear_int8);       \
    FT_BIND(cpu::set, skinny_gated_linear_int8); \
    FT_BIND(cpu::set, skinny_logits_int8);       \
    FT_BIND(cpu::set, greedy);                   \
  }

FT_BIND_CPU(generic)
FT_BIND_CPU(avx2)
FT_BIND_CPU(avx512)

#ifdef FT_WITH_CUDA
void bind_cuda(py::module_ module) {
  FT_BIND(cuda, rms_norm);
  FT_BIND(cuda, add_rms_norm);
  FT_BIND(cuda, layer_norm);
  FT_BIND(cuda, add_layer_norm);
  FT_BIND(cuda, activation);
  FT_BIND(cuda, gated_activation);
  FT_BIND(cuda, add);
  FT_BIND(cuda, embedding);
  FT_BIND(cuda, add_positions);
  FT_BIND(cuda, pool);
  FT_BIND(cuda, copy_pinned);
  FT_BIND(cuda, take_tokens);
  FT_BIND(cuda, put_tokens);
  FT_BIND(cuda, rope);
  FT_BIND(cuda, rope_kv_write);
  FT_BIND(cuda, kv_write);
  FT_BIND(cuda, skinny_linear);
  FT_BIND(cuda, skinny_activated_linear);
  FT_BIND(cuda, skinny_gated_linear);
  FT_BIND(cuda, skinny_linear_sum);
  FT_BIND(cuda, skinny_logits);
  FT_BIND(cuda, tile_linear);
  FT_BIND(cuda, tile_activated_linear);
  FT_BIND(cuda, tile_linear_fits);
  FT_BIND(cuda, activated_linear);
  FT_BIND(cuda, activated_linear_fits);
  FT_BIND(cuda, gated_linear);
  FT_BIND(cuda, gated_linear_fits);
  FT_BIND(cuda, expand_int8);
  FT_BIND(cuda, skinny_linear_int8);
  FT_BIND(cuda, skinny_activated_linear_int8);
  FT_BIND(cuda, skinny_gated_linear_int8);
  FT_BIND(cuda, skinny_logits_int8);
  FT_BIND(cuda, process_logits);
  FT_BIND(cuda, greedy);
  FT_BIND(cuda, sample);
  FT_BIND(cuda, log_probability);
  FT_BIND(cuda, route);
  FT_BIND(cuda, group_by_expert);
  FT_BIND(cuda, grouped_linear);
  FT_BIND(cuda, grouped_gated_linear);
  FT_BIND(cuda, combine_experts);
  FT_BIND(cuda, normalise_rows);
  FT_BIND(cuda, beam_candidates);
  FT_BIND(cuda, copy_rows);
  FT_BIND(cuda, copy_blocks);
  FT_BIND(cuda, paged_attention);
  FT_BIND(cuda, encoder_attention);
  FT_BIND(cuda, disentangled_attention);
  FT_BIND(cuda, set_device);
  FT_BIND(cuda, architectures);
  FT_BIND(cuda, has_code_for_device);
  FT_BIND(cuda, has_warpgroup_products);
  using ft::cuda::PeerArena;
  py::class_<PeerArena>(module, "PeerArena")
      .def(py::init<int, int, double>(), py::arg("rank"), py::arg("size"), py::arg("timeout"))
      .def("handle", [](const PeerArena& arena) { return py::bytes(arena.handle()); })
      .def("open", &PeerArena::open)
      .def_property_readonly("late_rank", &PeerArena::late_rank)
      .def_property_readonly("slot_bytes", &PeerArena::slot_bytes)
      .def_property_readonly("block_bytes", &PeerArena::block_bytes);
  using ft::cuda::DecoderStack;
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<DecoderStack>(module, "DecoderStack")
      .def(py::init<int, int, int, int>(), py::arg("num_heads"), py::arg("num_kv_heads"),
           py::arg("head_dim"), py::arg("hidden_size"))
      .def("add_linear", &DecoderStack::add_linear, no_gil)
      .def("add_attention", &DecoderStack::add_attention, no_gil)
      .def("fits", &DecoderStack::fits)
      .def_property_readonly("max_tokens", &DecoderStack::max_tokens)
      .def_property_readonly("scratch_bytes", &DecoderStack::scratch_bytes)
      .def("place", &DecoderStack::place, no_gil)
      .def("run", &DecoderStack::run, no_gil);
  FT_BIND(cuda, all_reduce_one_shot);
  FT_BIND(cuda, all_reduce_two_shot);
  FT_BIND(cuda, all_gather_columns);
  FT_BIND(cuda, all_reduce_norm_one_shot);
  FT_BIND(cuda, all_reduce_norm_two_shot);
}

// What the ops of these names run on architectures before Hopper.
void bind_cuda_sm80(py::module_ module) {
  FT_BIND(cuda::sm80, skinny_linear);
  FT_BIND(cuda::sm80, skinny_activated_linear);
  FT_BIND(cuda::sm80, skinny_gated_linear);
  FT_BIND(cuda::sm80, skinny_linear_sum);
  FT_BIND(cuda::sm80, skinny_logits);
}
#endif

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of the FasterTransformer backend.";
  // One submodule for each instruction set that this CPU has; `cpu` is the best of them.
  py::module_ sets = m.def_submodule("cpu_sets");
  bind_generic(sets.def_submodule("generic"));
  const char* best = "generic";
  if (has_avx2()) bind_avx2(sets.def_submodule(best = "avx2"));
  if (has_avx512()) bind_avx512(sets.def_submodule(best = "avx512"));
  m.attr("cpu") = sets.attr(best);
  m.attr("cpu_set") = best;
  m.def("set_num_threads", &ft::set_num_threads);
#ifdef FT_WITH_CUDA
  bind_cuda(m.def_submodule("cuda"));
  bind_cuda_sm80(m.def_submodule("cuda_sm80"));
#endif
}
