// SPDX-License-Identifier: BSD-3-Clause
// Programmatic dependent launch: a kernel's blocks may start while the kernel before it still runs,
// once all blocks of that one have let the next one start, or have ended. What a predecessor writes
// may be read, and what it reads may be written, only behind wait_for_predecessor(), which every
// block that does not end at once calls; since all kernels do, all before the predecessor have
// ended then, too. Before it only weights, tables and the step's metadata may be read.
#pragma once

namespace ft::device {

enum class NextStarts { kAtOnce, kBehindWait };

// Returns when the whole predecessor has ended and its writes are visible. The next kernel starts
// at once: a launch takes longer than a kernel between two products, whose successor shall be there
// when it ends. A product's blocks still find no room before the product in front leaves, block by
// block; so their first weights come while the memory would be idle, not while it is busy. Products
// themselves, and exchanges between GPUs, let the next kernel start behind the wait.
__device__ __forceinline__ void wait_for_predecessor(NextStarts next = NextStarts::kAtOnce) {
#if __CUDA_ARCH__ >= 900
  if (next == NextStarts::kAtOnce) asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (next == NextStarts::kBehindWait) asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace ft::device
