// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/peer_arena.h"

#include <cstring>

#include "cuda/launch.h"
#include "device/arena.cuh"

namespace ft::cuda {
namespace {

constexpr int64_t kMaxSumBytes = 8 << 20;  // of a two-shot sum; larger ones are NCCL's
constexpr const char* kName = "PeerArena";

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t num_bytes(const device::Arena& arena) {
  const size_t slots = static_cast<size_t>(device::kMaxBlocks) * device::kBuffers * 2 * arena.size;
  return sizeof(device::ArenaHeader) + slots * arena.capacity * sizeof(uint4);
}

}  // namespace

PeerArena::PeerArena(int rank, int size, double timeout) : view_(new device::Arena{}) {
  if (size < 2 || size > device::kMaxRanks || rank < 0 || rank >= size) {
    throw std::invalid_argument("PeerArena: rank " + std::to_string(rank) + " of " +
                                std::to_string(size) + "; from 2 to 8 ranks are allowed");
  }
  const int64_t packs = ceil_div(kMaxSumBytes / sizeof(uint4), size);
  view_->rank = rank;
  view_->size = size;
  view_->capacity = static_cast<int>(ceil_div(packs, device::kMaxBlocks));
  view_->timeout = static_cast<unsigned long long>(timeout * 1e9);
  unsigned char* base = nullptr;
  check_cuda(kName, cudaMalloc(&base, num_bytes(*view_)));
  view_->bases[rank] = base;
  check_cuda(kName, cudaMemset(base, 0, sizeof(device::ArenaHeader)));
  static_assert(device::kAbsent == 0xffffffffu, "cudaMemset fills with one byte");
  check_cuda(kName, cudaMemset(base + sizeof(device::ArenaHeader), 0xff,
                               num_bytes(*view_) - sizeof(device::ArenaHeader)));
  check_cuda(kName, cudaHostAlloc(&host_late_, sizeof(*host_late_), cudaHostAllocMapped));
  *host_late_ = 0;
  check_cuda(kName, cudaHostGetDevicePointer(&view_->host_late, host_late_, 0));
  check_cuda(kName, cudaDeviceSynchronize());  // peers may write as soon as they have the handle
}

PeerArena::~PeerArena() {
  // Errors are not looked at: at the end of the process CUDA may be gone already.
  for (int r = 0; r < view_->size; ++r) {
    if (r != view_->rank && view_->bases[r] != nullptr) cudaIpcCloseMemHandle(view_->bases[r]);
  }
  cudaFree(view_->bases[view_->rank]);
  cudaFreeHost(host_late_);
}

std::string PeerArena::handle() const {
  cudaIpcMemHandle_t handle;
  check_cuda(kName, cudaIpcGetMemHandle(&handle, view_->bases[view_->rank]));
  return std::string(handle.reserved, sizeof(handle.reserved));
}

void PeerArena::open(const std::vector<std::string>& handles) {
  if (handles.size() != static_cast<size_t>(view_->size)) {
    throw std::invalid_argument("PeerArena: " + std::to_string(handles.size()) + " handles for " +
                                std::to_string(view_->size) + " ranks");
  }
  for (int r = 0; r < view_->size; ++r) {
    if (r == view_->rank) continue;
    cudaIpcMemHandle_t handle;
    if (handles[r].size() != sizeof(handle.reserved)) {
      throw std::invalid_argument("PeerArena: a handle of " + std::to_string(handles[r].size()) +
                                  " bytes");
    }
    std::memcpy(handle.reserved, handles[r].data(), sizeof(handle.reserved));
    void* mapped = nullptr;
    check_cuda(kName, cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess));
    view_->bases[r] = static_cast<unsigned char*>(mapped);
  }
}

int PeerArena::late_rank() const {
  return static_cast<int>(*static_cast<const volatile unsigned*>(host_late_)) - 1;
}

int64_t PeerArena::slot_bytes() const { return block_bytes() * device::kMaxBlocks; }

int64_t PeerArena::block_bytes() const {
  return static_cast<int64_t>(view_->capacity) * sizeof(uint4);
}

}  // namespace ft::cuda
