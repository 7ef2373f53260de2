// SPDX-License-Identifier: BSD-3-Clause
// Programmatic dependent launch: a kernel's blocks may start while the kernel before it still runs,
// once all blocks of that one have let the next one start, or have ended. What a predecessor writes
// may be read, and what it reads may be written, only behind wait_for_predecessor(), which every
// block that does not end at once calls; since all kernels do, all before the predecessor have
// ended then, too. Before it only weights, tables and the step's metadata may be read.
#pragma once

namespace ft::device {

// Up to so many rows the kernels between two products are too short to fill the memory.
constexpr int kFewRows = 16;

// Returns when the whole predecessor has ended and its writes are visible. `rows`: of the step, in
// a kernel between products. Few: the next kernel starts behind the wait and not sooner, for it
// loads weights ahead, which shall come while this kernel leaves the memory idle, not while the
// predecessor keeps it busy. Many: this kernel is busy itself, and the next one, which loads less
// or finds no room beside it, shall be there when it ends, and so starts with it.
__device__ __forceinline__ void wait_for_predecessor(int rows) {
#if __CUDA_ARCH__ >= 900
  if (rows > kFewRows) asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (rows <= kFewRows) asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The same in products and exchanges between GPUs: what follows them is small, loads nothing ahead,
// and shall be there when they end.
__device__ __forceinline__ void wait_for_predecessor() { wait_for_predecessor(kFewRows + 1); }

}  // namespace ft::device
