// SPDX-License-Identifier: BSD-3-Clause
// Attention of one query, which reads keys and values where they lie: the online softmax of
// attention.h over the same groups of keys.
#pragma once

#include "cpu/attention.h"

namespace ft::cpu::FT_ISA {

class SingleRow {
 public:
  // `scale`: of the scores.
  template <typename T>
  void start(const T* query, int64_t head_dim, float scale) {
    head_dim_ = head_dim;
    num_vecs_ = (head_dim + kLanes - 1) / kLanes;
    best_ = kLowest;
    total_ = vec{};
    for (int64_t i = 0; i < num_vecs_; ++i) {
      query_[i] = load_lanes(query + i * kLanes, lanes_of(i)) * scale;
      sums_[i] = vec{};
    }
  }

  // The products with `count` keys; lanes beyond are 0. `ahead`: elements to the keys that come
  // next, which are brought meanwhile; values lie alike.
  template <typename T>
  vec scores(const T* keys, int64_t stride, int64_t count, int64_t ahead) const {
    alignas(64) float found[kLanes] = {};
    for (int64_t j = 0; j < count; ++j) {
      vec product{};
      for (int64_t i = 0; i < num_vecs_; ++i) {
        __builtin_prefetch(keys + j * stride + i * kLanes + ahead);
        product += query_[i] * load_lanes(keys + j * stride + i * kLanes, lanes_of(i));
      }
      found[j] = sum(product);
    }
    return load(found);
  }

  // A group that is not seen at all, whose scores are kLowest, changes nothing.
  template <typename T>
  void add(vec scores, const T* values, int64_t stride, int64_t count, int64_t ahead) {
    const float largest_score = largest(scores);
    const float best = largest_score > best_ ? largest_score : best_;
    const float correction = exp(broadcast(best_ - best))[0];
    best_ = best;
    const vec seen = exp(scores - best);
    const vec weight = scores == kLowest ? vec{} : seen;
    total_ = total_ * correction + weight;
    alignas(64) float weights[kLanes];
    store(weights, weight);
    int64_t i = 0;
    for (; i + kVecs <= num_vecs_; i += kVecs) {
      add_values<kVecs>(i, weights, correction, values, stride, count, ahead);
    }
    for (; i < num_vecs_; ++i) add_values<1>(i, weights, correction, values, stride, count, ahead);
  }

  template <typename T>
  void write(T* to) const {
    const float scale = 1.0f / sum(total_);
    for (int64_t i = 0; i < num_vecs_; ++i) {
      store_lanes(to + i * kLanes, sums_[i] * scale, lanes_of(i));
    }
  }

 private:
  static constexpr int kVecs = 4;  // whose sums are in flight together

  int64_t lanes_of(int64_t i) const {
    const int64_t left = head_dim_ - i * kLanes;
    return left < kLanes ? left : kLanes;
  }

  template <int kCount, typename T>
  void add_values(int64_t first, const float (&weights)[kLanes], float correction, const T* values,
                  int64_t stride, int64_t count, int64_t ahead) {
    vec group[kCount] = {};
    for (int64_t j = 0; j < count; ++j) {
      for (int i = 0; i < kCount; ++i) {
        const T* from = values + j * stride + (first + i) * kLanes;
        __builtin_prefetch(from + ahead);
        group[i] += weights[j] * load_lanes(from, lanes_of(first + i));
      }
    }
    for (int i = 0; i < kCount; ++i) {
      sums_[first + i] = sums_[first + i] * correction + group[i];
    }
  }

  int64_t head_dim_, num_vecs_;
  float best_;
  vec total_;  // by lanes
  vec query_[kMaxVecs], sums_[kMaxVecs];
};

}  // namespace ft::cpu::FT_ISA
