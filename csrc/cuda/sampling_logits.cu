// SPDX-License-Identifier: BSD-3-Clause
// process_logits: a block takes a slice of one row's vocabulary, counts the row's history in it and
// changes what is asked for; blocks of rows that ask for nothing leave at once.
#include "cuda/launchers.h"
#include "cuda/sampling.h"
#include "device/pdl.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kValues = 16;  // logits of one thread
constexpr int kSlice = kThreads * kValues;
constexpr uint32_t kInPrompt = 1u << 31;  // beside the count of the output

struct WordTable {
  const int32_t* words;  // [slots, num_words, length], right-aligned, padded with -1
  int64_t num_words;
  int length;
};

struct Biases {
  const int32_t* pairs;  // [slots, num_pairs, 2], token and bits of a float
  int64_t num_pairs;
};

struct History {
  const int32_t* tokens;
  int length;
};

// What a row asks for; by default nothing.
struct Request {
  float temperature = 1.0f, repetition = 1.0f, presence = 0.0f, frequency = 0.0f;
  int prompt_len = 0, num_bad_words = 0, num_end_ids = 0, ngram_size = 0, num_biases = 0;

  __device__ bool is_penalised() const {
    return repetition != 1.0f || presence != 0.0f || frequency != 0.0f;
  }
  __device__ bool is_changed() const { return is_penalised() || temperature != 1.0f; }
  __device__ bool is_banned() const {
    return num_bad_words > 0 || num_end_ids > 0 || ngram_size > 0;
  }
  __device__ bool asks() const { return is_changed() || is_banned() || num_biases > 0; }
};

__device__ Request request_of(const SamplingTables& tables, int slot, int length) {
  Request request;
  request.temperature = tables.at(kTemperature, slot);
  request.repetition = tables.at(kRepetition, slot);
  request.presence = tables.at(kPresence, slot);
  request.frequency = tables.at(kFrequency, slot);
  request.prompt_len = tables.at(kPromptLen, slot);
  request.num_bad_words = tables.at(kNumBadWords, slot);
  request.ngram_size = tables.at(kNgramSize, slot);
  request.num_biases = tables.at(kNumBiases, slot);
  const int num_end_ids = tables.at(kNumEndIds, slot);
  request.num_end_ids = length < tables.at(kFirstEnd, slot) ? num_end_ids : 0;
  return request;
}

// counts[i]: how often token begin + i is in the output, with kInPrompt where the prompt has it.
__device__ void count_history(uint32_t* counts, const History& history, int prompt_len, int begin) {
  for (int i = threadIdx.x; i < kSlice; i += kThreads) counts[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < history.length; i += kThreads) {
    const int token = history.tokens[i] - begin;
    if (token < 0 || token >= kSlice) continue;
    if (i < prompt_len) {
      atomicOr(&counts[token], kInPrompt);
    } else {
      atomicAdd(&counts[token], 1u);
    }
  }
  __syncthreads();
}

// Rounded after every operation, as the op's body is.
__device__ float penalised(float logit, uint32_t count, const Request& request) {
  if (count == 0) return logit;
  const float repeated =
      logit < 0.0f ? __fmul_rn(logit, request.repetition) : __fdiv_rn(logit, request.repetition);
  const float times = static_cast<float>(count & ~kInPrompt);
  return __fsub_rn(__fsub_rn(repeated, request.presence), __fmul_rn(request.frequency, times));
}

// counts: null without penalties.
__device__ void change(float* logits, int size, const uint32_t* counts, const Request& request) {
  float values[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at < size) values[i] = logits[at];
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at >= size) break;
    const float logit = __fdiv_rn(values[i], request.temperature);
    logits[at] = counts == nullptr ? logit : penalised(logit, counts[at], request);
  }
}

// Whether the history ends with the `size` tokens at `word`, of which those below 0 are padding.
__device__ bool ends_with(const History& history, const int32_t* word, int size) {
  for (int i = size - 1; i >= 0 && word[i] >= 0; --i) {
    const int position = history.length - size + i;
    if (position < 0 || history.tokens[position] != word[i]) return false;
  }
  return true;
}

// logits: of tokens [begin, begin + size).
__device__ void ban(float* logits, int begin, int size, const History& history,
                    const WordTable& table, int slot, int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int32_t* const word = table.words + (slot * table.num_words + i) * table.length;
    const int token = word[table.length - 1] - begin;
    if (token < 0 || token >= size) continue;
    if (ends_with(history, word, table.length - 1)) logits[token] = -INFINITY;
  }
}

// Bans what would end an n-gram that the row has already.
__device__ void ban_ngrams(float* logits, int begin, int size, const History& history, int ngram) {
  const int32_t* const end = history.tokens + history.length;
  for (int i = threadIdx.x; i <= history.length - ngram; i += kThreads) {
    const int32_t* const last = history.tokens + i + ngram - 1;
    const int token = *last - begin;
    if (token < 0 || token >= size) continue;
    int same = 0;  // tokens in front of both; what is below 0 is the same as nothing
    while (same < ngram - 1 && last[-1 - same] == end[-1 - same] && end[-1 - same] >= 0) ++same;
    if (same == ngram - 1) logits[token] = -INFINITY;
  }
}

// A token comes once in a row's pairs.
__device__ void add_biases(float* logits, int begin, int size, const Biases& biases, int slot,
                           int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int32_t* const pair = biases.pairs + (slot * biases.num_pairs + i) * 2;
    const int token = pair[0] - begin;
    if (token < 0 || token >= size) continue;
    logits[token] = __fadd_rn(logits[token], __int_as_float(pair[1]));
  }
}

__global__ void __launch_bounds__(kThreads)
    process_logits_kernel(Logits logits, TokenPool pool, const int32_t* slots,
                          const int32_t* lengths, SamplingTables tables, WordTable bad_words,
                          WordTable end_ids, Biases biases) {
  __shared__ uint32_t counts[kSlice];
  const int slot = slots[blockIdx.y];
  const int length = lengths[blockIdx.y];
  const Request request = slot < 0 ? Request{} : request_of(tables, slot, length);
  device::wait_for_predecessor();
  if (!request.asks()) return;
  const int begin = blockIdx.x * kSlice;
  const int size = min(kSlice, logits.vocab_size - begin);
  float* const slice = logits.data + blockIdx.y * logits.stride + begin;
  const History history{pool.row(slot), length};
  if (request.num_biases > 0) {
    add_biases(slice, begin, size, biases, slot, request.num_biases);
    __syncthreads();
  }
  if (request.is_penalised()) count_history(counts, history, request.prompt_len, begin);
  if (request.is_changed()) change(slice, size, request.is_penalised() ? counts : nullptr, request);
  __syncthreads();  // bans come last: what is -inf stays -inf, whatever the penalties would do
  ban(slice, begin, size, history, bad_words, slot, request.num_bad_words);
  ban(slice, begin, size, history, end_ids, slot, request.num_end_ids);
  if (request.ngram_size > 0) ban_ngrams(slice, begin, size, history, request.ngram_size);
}

WordTable check_words(const char* argument, const Tensor& words, const Tensor& integers) {
  check_on_gpu("process_logits", argument, words);
  check_shape("process_logits", argument, words, {integers.shape[1], -1, -1});
  check_dtype("process_logits", argument, words, DType::kInt32);
  check_contiguous("process_logits", argument, words);
  check_that("process_logits", argument, words.shape[2] > 0, "has words without tokens");
  return {words.as<int32_t>(), words.shape[1], static_cast<int>(words.shape[2])};
}

Biases check_biases(const Tensor& biases, const Tensor& integers) {
  check_on_gpu("process_logits", "biases", biases);
  check_shape("process_logits", "biases", biases, {integers.shape[1], -1, 2});
  check_dtype("process_logits", "biases", biases, DType::kInt32);
  check_contiguous("process_logits", "biases", biases);
  return {biases.as<int32_t>(), biases.shape[1]};
}

}  // namespace

void process_logits(const Tensor& logits, const Tensor& token_pool, const Tensor& slots,
                    const Tensor& lengths, const Tensor& floats, const Tensor& integers,
                    const Tensor& bad_words, const Tensor& end_ids, const Tensor& biases,
                    int64_t stream) {
  const char* const op = "process_logits";
  const Logits rows = check_logits(op, logits, slots);
  check_vector(op, "lengths", lengths, logits.shape[0], DType::kInt32);
  const SamplingTables tables = check_tables(op, floats, integers);
  const TokenPool pool = check_token_pool(op, token_pool, tables.num_slots);
  const WordTable bad = check_words("bad_words", bad_words, integers);
  const WordTable ends = check_words("end_ids", end_ids, integers);
  const Biases added = check_biases(biases, integers);
  if (logits.shape[0] == 0) return;
  const dim3 grid((rows.vocab_size + kSlice - 1) / kSlice, static_cast<unsigned>(logits.shape[0]));
  launch(op, process_logits_kernel, grid, kThreads, 0, stream, rows, pool, slots.as<int32_t>(),
         lengths.as<int32_t>(), tables, bad, ends, added);
}

}  // namespace ft::cuda
