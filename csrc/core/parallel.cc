// SPDX-License-Identifier: BSD-3-Clause
#include "core/parallel.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace ft {
namespace {

inline void pause() { __builtin_ia32_pause(); }

// Between two ops of a step lie some ten microseconds of Python: helpers stay awake for that long.
constexpr int kSpinsBeforeSleep = 4000;
constexpr int kSpinsBeforeYield = 2000;

// `ticket_` holds the number of the job and how many of its pieces nobody has begun. A helper that
// read the job's fields may use them if it then moves the ticket on from the value it saw: the job
// cannot have ended between, for it still had that piece to do. Whether there is one to do must
// come from the ticket itself: a field may already be the next job's.
class Pool {
 public:
  int num_threads() const { return static_cast<int>(helpers_.size()) + 1; }

  void resize(int count) {
    stop();
    stopping_ = false;
    for (int i = 1; i < count; ++i) helpers_.emplace_back([this] { help(); });
  }

  void run(int64_t count, int64_t grain, ChunkBody body, void* context) {
    const std::lock_guard<std::mutex> one_job_at_a_time(job_mutex_);
    count_.store(count, std::memory_order_relaxed);
    grain_.store(grain, std::memory_order_relaxed);
    body_.store(body, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const uint32_t pieces = static_cast<uint32_t>((count + grain - 1) / grain);
    ticket_.store(static_cast<uint64_t>(++job_) << 32 | pieces);
    wake();
    while (work()) {
    }
    for (int spins = 0; done_.load(std::memory_order_acquire) < pieces; ++spins) {
      spins < kSpinsBeforeYield ? pause() : std::this_thread::yield();
    }
  }

 private:
  // Does one piece of the current job; false when none is left to begin.
  bool work() {
    uint64_t seen = ticket_.load(std::memory_order_acquire);
    while (const uint32_t left = static_cast<uint32_t>(seen)) {
      const int64_t count = count_.load(std::memory_order_relaxed);
      const int64_t grain = grain_.load(std::memory_order_relaxed);
      const ChunkBody body = body_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      if (ticket_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        const int64_t begin = (left - 1) * grain;
        body(context, begin, begin + grain < count ? begin + grain : count);
        done_.fetch_add(1, std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  bool has_work() const { return static_cast<uint32_t>(ticket_.load()) > 0; }

  void help() {
    int spins = 0;
    while (!stopping_) {
      if (work()) {
        spins = 0;
      } else if (++spins < kSpinsBeforeSleep) {
        pause();
      } else {
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        ++sleepers_;
        awake_.wait(lock, [this] { return stopping_ || has_work(); });
        --sleepers_;
        spins = 0;
      }
    }
  }

  void wake() {
    if (sleepers_ == 0) return;
    const std::lock_guard<std::mutex> lock(sleep_mutex_);
    awake_.notify_all();
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(sleep_mutex_);
      stopping_ = true;
    }
    awake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
    helpers_.clear();
  }

  std::mutex job_mutex_;
  std::mutex sleep_mutex_;
  std::condition_variable awake_;
  std::vector<std::thread> helpers_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  uint32_t job_ = 0;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> done_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<int64_t> grain_{1};
  std::atomic<ChunkBody> body_{nullptr};
  std::atomic<void*> context_{nullptr};
};

// Never destroyed: helpers may still sleep when the process exits.
Pool& pool() {
  static Pool* const instance = new Pool();
  return *instance;
}

}  // namespace

void set_num_threads(int count) { pool().resize(count < 1 ? 1 : count); }

int num_threads() { return pool().num_threads(); }

void run_chunks(int64_t count, int64_t grain, ChunkBody body, void* context) {
  pool().run(count, grain, body, context);
}

}  // namespace ft
