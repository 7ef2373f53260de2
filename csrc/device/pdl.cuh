// SPDX-License-Identifier: BSD-3-Clause
// Programmatic dependent launch: a kernel's blocks may start while the kernel before it still runs,
// once all blocks of that one have let the next one start, or have ended. What a predecessor writes
// may be read, and what it reads may be written, only behind wait_for_predecessor(), which every
// block that does not end at once calls; since all kernels do, all before the predecessor have
// ended then, too. Before it only weights, tables and the step's metadata may be read. What brings
// these waits by wait_for_predecessor_alone().
#pragma once

namespace ft::device {

// Returns when the whole predecessor has ended and its writes are visible. The next kernel starts
// with this one: a product's first weights then come while the small kernels in front of it leave
// the memory idle.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The same, of a kernel whose writes the next one may read without a wait: that one starts when it
// has ended.
__device__ __forceinline__ void wait_for_predecessor_alone() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace ft::device
