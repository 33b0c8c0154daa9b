// From projections to heads: norms of queries and keys, rotary positions, and the way into the cache.
#include <cstring>

#include "attention.h"
#include "norm.h"

namespace tramontane {
namespace {

// Turns the first 2 * half dimensions in place.
void turn(float* head, const float* cos, const float* sin, long half) {
  float* other = head + half;
#pragma GCC ivdep  // a number is read before it is written, also where all is one place
  for (long i = 0; i < half; i++) {
    const float a = head[i], b = other[i];
    head[i] = a * cos[i] - b * sin[i];
    other[i] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

void prepare_head(const Attention& a, long token, long head) {
  const long size = a.head_dim, num_queries = a.num_heads, num_turned = num_queries + a.num_kv_heads;
  float* values = a.query + token * a.query_stride + head * size;
  if (head < num_turned) {
    const float* norm = head < num_queries ? a.query_norm : a.key_norm;
    if (norm) norm_row(values, norm, a.eps, size, values);
    if (a.cos) turn(values, a.cos + token * a.half, a.sin + token * a.half, a.half);
  }
  if (head < num_queries || a.slots[token] < 0) return;
  float* cache = head < num_turned ? a.keys : a.values;
  const long kv_head = (head - num_queries) % a.num_kv_heads;
  std::memcpy(cache + (a.slots[token] * a.num_kv_heads + kv_head) * size, values, size * sizeof(float));
}

}  // namespace tramontane
