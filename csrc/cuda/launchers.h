// SPDX-License-Identifier: BSD-3-Clause
// The CUDA launchers. Shapes: the ops of the same name; the last argument is the raw stream.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/peer_arena.h"

namespace ft::cuda {

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps, int64_t stream);
void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, bool keeps_sum, int64_t stream);
void layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
                double eps, int64_t stream);
void add_layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, double eps, bool keeps_sum,
                    int64_t stream);
void activation(const Tensor& out, const Tensor& x, const std::string& kind, int64_t stream);
void gated_activation(const Tensor& out, const Tensor& x, const std::string& kind, int64_t stream);
void add(const Tensor& x, const Tensor& y, int64_t stream);
void embedding(const Tensor& out, const Tensor& ids, const Tensor& weight, int64_t stream);
void add_positions(const Tensor& hidden, const Tensor& table, const Tensor& positions,
                   int64_t stream);
void pool(const Tensor& out, const Tensor& tokens, const Tensor& cu_seqlens, const std::string& how,
          int64_t stream);
void copy_pinned(const Tensor& target, const Tensor& source, int64_t stream);
void take_tokens(const Tensor& out, const Tensor& token_pool, const Tensor& slots,
                 const Tensor& positions, int64_t stream);
void put_tokens(const Tensor& token_pool, const Tensor& slots, const Tensor& positions,
                const Tensor& tokens, int64_t stream);
void rope(const Tensor& q, const Tensor& k, const Tensor& positions, const Tensor& cos_sin,
          bool interleaved, int64_t stream);
void rope_kv_write(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                   const Tensor& cos_sin, bool interleaved, const Tensor& k_cache,
                   const Tensor& v_cache, const Tensor& slot_mapping, int64_t stream);
void kv_write(const Tensor& k, const Tensor& v, const Tensor& k_cache, const Tensor& v_cache,
              const Tensor& slot_mapping, int64_t stream);
void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream);
void skinny_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& bias, const std::string& kind,
                             int64_t first, int64_t stream);
void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream);
void skinny_linear_sum(const Tensor& out, const Tensor& x, const Tensor& weight,
                       const Tensor& second_x, const Tensor& second_weight,
                       const std::optional<Tensor>& bias, int64_t stream);
void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream);
void activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                      const std::optional<Tensor>& bias, const std::string& kind, int64_t stream);
void gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight, const std::string& kind,
                  int64_t stream);
void tile_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                 const std::optional<Tensor>& bias, int64_t stream);
void tile_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                           const std::optional<Tensor>& bias, const std::string& kind,
                           int64_t stream);
// Whether the device has a kernel of the op for `weight`.
bool tile_linear_fits(const Tensor& weight);
bool activated_linear_fits(const Tensor& weight);
bool gated_linear_fits(const Tensor& weight);
void expand_int8(const Tensor& out, const Tensor& weight, const Tensor& scale, int64_t stream);
void skinny_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, const std::optional<Tensor>& bias, int64_t stream);
void skinny_activated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                                  const Tensor& scale, const std::optional<Tensor>& bias,
                                  const std::string& kind, int64_t first, int64_t stream);
void skinny_gated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                              const Tensor& scale, const std::optional<Tensor>& bias,
                              const std::string& kind, int64_t stream);
void skinny_logits_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, int64_t stream);
void process_logits(const Tensor& logits, const Tensor& token_pool, const Tensor& slots,
                    const Tensor& lengths, const Tensor& floats, const Tensor& integers,
                    const Tensor& bad_words, const Tensor& end_ids, const Tensor& biases,
                    int64_t stream);
void greedy(const Tensor& out, const Tensor& logits, const Tensor& slots, int64_t stream);
void sample(const Tensor& out, const Tensor& logits, const Tensor& token_pool, const Tensor& slots,
            const Tensor& lengths, const Tensor& floats, const Tensor& integers,
            const Tensor& seeds, int64_t stream);
void log_probability(const Tensor& out, const Tensor& logits, const Tensor& tokens,
                     const Tensor& slots, const Tensor& integers, int64_t stream);
void route(const Tensor& logits, bool normalised, const Tensor& shares, const Tensor& experts,
           int64_t stream);
void group_by_expert(const Tensor& experts, const Tensor& rows, const Tensor& places,
                     const Tensor& offsets, int64_t stream);
void grouped_linear(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& offsets,
                    int64_t stream);
void grouped_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                          const Tensor& rows, const Tensor& offsets, const std::string& kind,
                          int64_t stream);
void combine_experts(const Tensor& out, const Tensor& results, const Tensor& places,
                     const Tensor& shares, const std::optional<Tensor>& shared, int64_t stream);
void normalise_rows(const Tensor& logits, const Tensor& num_candidates, int64_t stream);
void beam_candidates(const Tensor& logits, const Tensor& num_candidates, const Tensor& tokens,
                     const Tensor& logprobs, int64_t stream);
void copy_rows(const Tensor& token_pool, const Tensor& sources, const Tensor& targets,
               int64_t length, int64_t stream);
void copy_blocks(const Tensor& kv_cache, const Tensor& sources, const Tensor& targets,
                 int64_t stream);
void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, double scale, int64_t window,
                     double soft_cap, const std::optional<Tensor>& alibi_slopes,
                     const std::optional<Tensor>& relative_bias, int64_t stream);

// The device (launch.cu).
void set_device(int index);
std::vector<int> architectures();
bool has_code_for_device();
bool has_warpgroup_products();

// Collectives over the ranks of `arena`, in this rank's part of them. x is summed in place and may
// lie in at most slot_bytes() for one shot, `size` times that for two; out [R, size * C] takes x
// [R, C] of all ranks side by side.
void all_reduce_one_shot(const Tensor& x, const PeerArena& arena, int64_t stream);
void all_reduce_two_shot(const Tensor& x, const PeerArena& arena, int64_t stream);
void all_gather_columns(const Tensor& out, const Tensor& x, const PeerArena& arena, int64_t stream);
// residual += the sum of x, in place; out = its rms_norm, or with `bias` its layer_norm. All rows
// [R, H] are contiguous and of whole packs of 16 bytes; x is overwritten. With n = ceil(R / 128)
// rows in a block, or for two shots ceil(ceil(R / size) / 128), a row has at most 2 * block_bytes()
// / n bytes for one shot, and half of that for two.
void all_reduce_norm_one_shot(const Tensor& out, const Tensor& x, const Tensor& residual,
                              const Tensor& weight, const std::optional<Tensor>& bias, double eps,
                              const PeerArena& arena, int64_t stream);
void all_reduce_norm_two_shot(const Tensor& out, const Tensor& x, const Tensor& residual,
                              const Tensor& weight, const std::optional<Tensor>& bias, double eps,
                              const PeerArena& arena, int64_t stream);

// What older architectures run, on any.
namespace sm80 {
void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream);
void skinny_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& bias, const std::string& kind,
                             int64_t first, int64_t stream);
void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream);
void skinny_linear_sum(const Tensor& out, const Tensor& x, const Tensor& weight,
                       const Tensor& second_x, const Tensor& second_weight,
                       const std::optional<Tensor>& bias, int64_t stream);
void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream);
}  // namespace sm80

void encoder_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Tensor& cu_seqlens, int64_t max_seqlen, double scale,
                       const std::optional<Tensor>& relative_bias, int64_t stream);
void disentangled_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::optional<Tensor>& content_to_position,
                            const std::optional<Tensor>& position_to_content, const Tensor& buckets,
                            const Tensor& cu_seqlens, int64_t max_seqlen, double scale,
                            int64_t stream);

}  // namespace ft::cuda
