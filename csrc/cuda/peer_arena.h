// SPDX-License-Identifier: BSD-3-Clause
// Memory through which the GPUs of one node exchange packs (device/arena.cuh), opened by CUDA IPC:
// plain cudaMalloc, mapped between two GPUs at a time; no NVLink multicast.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ft::device {
struct Arena;
}

namespace ft::cuda {

class PeerArena {
 public:
  // Allocates on the current device. Kernels wait at most `timeout` seconds for a rank.
  PeerArena(int rank, int size, double timeout);
  ~PeerArena();
  PeerArena(const PeerArena&) = delete;
  PeerArena& operator=(const PeerArena&) = delete;

  // What another process opens it with.
  std::string handle() const;
  // Maps the arenas of all ranks; handles are in rank order.
  void open(const std::vector<std::string>& handles);
  // The rank that some rank waited for in vain, or -1. Reads host memory: never waits.
  int late_rank() const;
  // Bytes of a message that every rank sends to all others, whole or its part of a two-shot sum.
  int64_t slot_bytes() const;
  // Bytes of it that one block of a kernel sends.
  int64_t block_bytes() const;

  const device::Arena& view() const { return *view_; }

 private:
  std::unique_ptr<device::Arena> view_;
  unsigned* host_late_ = nullptr;
};

}  // namespace ft::cuda
