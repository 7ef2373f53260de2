// SPDX-License-Identifier: BSD-3-Clause
// Memory through which the ranks of a group exchange packs, one arena on each. Block b of a kernel
// talks to the blocks b of the other ranks and to nobody else. What it must remember from call to
// call lies in its arena, so a captured launch can be replayed.
//
// Every block has three buffers, each of 2 * size slots of `capacity` packs. In its call c it
// writes into buffer c % 3 of the others, polls buffer c % 3 of its own arena, and clears the one
// of call c - 1. That is safe: who has completed call c has heard from every rank, so every rank
// has begun c and thereby ended c - 1. So nobody writes for call c + 2 into what call c clears
// before c has ended here, and what is polled in c was cleared in c - 2, before any rank could
// begin c. It holds as long as all ranks make the same calls in the same order, and every block of
// a grid has something to send.
#pragma once

#include "device/lamport.cuh"

namespace ft::device {

inline constexpr int kMaxRanks = 8;
// Blocks wait for each other across GPUs, so all of a grid should fit at once.
inline constexpr int kMaxBlocks = 128;
inline constexpr int kExchangeThreads = 256;
inline constexpr int kBuffers = 3;
// Polls between two looks at the clock.
inline constexpr int kRoundsPerLook = 256;

struct BlockState {
  unsigned buffer;  // of the next call
  unsigned slots;   // that the last call used, each `packs` long
  unsigned packs;
  unsigned unused;
};

struct ArenaHeader {
  unsigned late;  // 1 + the rank that somebody waited for in vain
  unsigned unused[31];
  BlockState blocks[kMaxBlocks];
};

// What a kernel is given: every rank's arena as this process sees it.
struct Arena {
  unsigned char* bases[kMaxRanks];
  unsigned* host_late;         // mapped memory of the host
  unsigned long long timeout;  // ns
  int rank;
  int size;
  int capacity;

  __device__ ArenaHeader* header(int owner) const {
    return reinterpret_cast<ArenaHeader*>(bases[owner]);
  }
};

// The exchange of one block in one call.
class Mailbox {
 public:
  __device__ explicit Mailbox(const Arena& arena) : arena_(arena) {
    const auto* state = reinterpret_cast<const uint4*>(&own()->blocks[blockIdx.x]);
    const uint4 words = __ldcg(state);
    late_ = load_system(&own()->late);
    state_ = {words.x, words.y, words.z, 0};
  }

  __device__ int rank() const { return arena_.rank; }
  __device__ int size() const { return arena_.size; }
  // Packs of a slot.
  __device__ int capacity() const { return arena_.capacity; }

  // Somebody gave up before: there is no sense in waiting again. Tells the host.
  __device__ bool is_closed() const {
    if (late_ != 0) store_system(arena_.host_late, late_);
    return late_ != 0;
  }

  // The rank `step` behind this one: everybody starts with another.
  __device__ int neighbour(int step) const {
    const int rank = arena_.rank + step;
    return rank < arena_.size ? rank : rank - arena_.size;
  }

  __device__ void write(int to, int slot, int index, uint4 pack) const {
    store_system(at(to, state_.buffer, slot) + index, present(pack));
  }

  template <int kRanks>
  __device__ void write_all(int slot, int index, uint4 pack) const {
#pragma unroll
    for (int step = 1; step < kRanks; ++step) {
      if (step < arena_.size) write(neighbour(step), slot, index, pack);
    }
  }

  // parts[r]: pack `index` of slot `slot + r`, of every r with waits_for(r). False: a rank did not
  // come.
  template <int kRanks, typename WaitsFor>
  __device__ bool read(uint4 (&parts)[kRanks], int slot, int index, WaitsFor waits_for) const {
    const uint4* const from = at(arena_.rank, state_.buffer, slot) + index;
    unsigned long long since = 0;
    for (int round = 1;; ++round) {
      // All loads are on their way together: also those that nobody waits for, which would need a
      // branch.
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        parts[r] = load_system(from + min(r, arena_.size - 1) * arena_.capacity);
      }
      int missing = -1;
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        if (waits_for(r) && !has_arrived(parts[r])) missing = r;
      }
      if (missing < 0) return true;
      if (round % kRoundsPerLook == 0 && gives_up(missing, since)) return false;
    }
  }

  // Pack `index` of slot `slot + r`, which rank r fills. False: it did not come.
  __device__ bool read_one(uint4& part, int r, int slot, int index) const {
    const uint4* const from = at(arena_.rank, state_.buffer, slot + r) + index;
    unsigned long long since = 0;
    for (int round = 1;; ++round) {
      part = load_system(from);
      if (has_arrived(part)) return true;
      if (round % kRoundsPerLook == 0 && gives_up(r, since)) return false;
    }
  }

  // Empties what the call before this one received.
  __device__ void clear() const {
    const uint4 absent = make_uint4(kAbsent, kAbsent, kAbsent, kAbsent);
    for (unsigned slot = 0; slot < state_.slots; ++slot) {
      uint4* const old = at(arena_.rank, (state_.buffer + kBuffers - 1) % kBuffers, slot);
#pragma unroll 1
      for (unsigned i = threadIdx.x; i < state_.packs; i += blockDim.x) {
        store_system(old + i, absent);
      }
    }
  }

  // The last statement of a block; slots [0, slots) were used up to pack `packs`.
  __device__ void finish(int slots, int packs) const {
    __syncthreads();  // all threads have read the state
    if (threadIdx.x != 0) return;
    own()->blocks[blockIdx.x] = {(state_.buffer + 1) % kBuffers, static_cast<unsigned>(slots),
                                 static_cast<unsigned>(packs), 0};
  }

 private:
  __device__ ArenaHeader* own() const { return arena_.header(arena_.rank); }

  __device__ uint4* at(int owner, unsigned buffer, int slot) const {
    auto* const packs = reinterpret_cast<uint4*>(arena_.bases[owner] + sizeof(ArenaHeader));
    return packs + ((blockIdx.x * kBuffers + buffer) * 2 * arena_.size + slot) * arena_.capacity;
  }

  // Ends the wait after the time-out, or when another rank has ended its own; then everybody hears
  // of it.
  __device__ bool gives_up(int missing, unsigned long long& since) const {
    const unsigned long long now = nanoseconds();
    if (since == 0) since = now;
    unsigned late = load_system(&own()->late);
    if (late == 0 && now - since < arena_.timeout) return false;
    if (late == 0) late = missing + 1;
#pragma unroll 1
    for (int r = 0; r < arena_.size; ++r) store_system(&arena_.header(r)->late, late);
    store_system(arena_.host_late, late);
    return true;
  }

  const Arena& arena_;
  BlockState state_;
  unsigned late_;
};

}  // namespace ft::device
