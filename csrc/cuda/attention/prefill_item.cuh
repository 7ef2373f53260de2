// SPDX-License-Identifier: BSD-3-Clause
// What a block of attention with several queries is given at a time.
#pragma once

namespace ft::cuda {

// What a block computes: queries [token, token + num_rows) for one head.
struct PrefillItem {
  int sequence, head, kv_head, num_keys;
  int token, num_rows, position;  // position of the first query
  int oldest, newest;             // the first and the last key that any of them sees
};

// That of the queries of a sequence from its query `first` on, up to `max_rows`.
template <typename A>
__device__ PrefillItem make_item(const A& a, int sequence, int head, int first, int max_rows) {
  const int num_queries = a.num_queries(sequence);
  PrefillItem item;
  item.sequence = sequence;
  item.head = head;
  item.kv_head = a.kv_head(head);
  item.num_keys = a.num_keys(sequence);
  item.token = a.cu_seqlens_q[sequence] + first;
  item.num_rows = min(max_rows, num_queries - first);
  item.position = item.num_keys - num_queries + first;
  item.oldest = a.oldest_visible(item.position);
  item.newest = a.newest_visible(item.position + item.num_rows - 1, item.num_keys);
  return item;
}

}  // namespace ft::cuda
