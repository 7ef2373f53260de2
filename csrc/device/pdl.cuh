// SPDX-License-Identifier: BSD-3-Clause
// Programmatic dependent launch: a kernel's blocks may start while the kernel before it still runs.
// Every kernel of the engine calls both functions, launch_dependents() at its very start. What a
// predecessor writes may be read, and what it reads may be written, only behind
// wait_for_predecessor(), which returns when the whole predecessor has ended and its writes are
// visible; since every kernel waits, so have all before it. Before it only weights, tables and the
// step's metadata may be read.
#pragma once

namespace ft::device {

__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace ft::device
