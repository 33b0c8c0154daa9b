// From projections to heads: norms of queries and keys, rotary positions, and the way into the cache.
#include <cstring>

#include "attention.h"
#include "blocks.h"
#include "norm.h"
#include "vectors.h"

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

constexpr long kLanes = 16;

void store_all_halves(const float* values, long count, uint16_t* out) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store_halves(out + i, load_floats(values + i));
  float last[kLanes] = {};
  uint16_t halves_of_last[kLanes];
  std::memcpy(last, values + i, (count - i) * sizeof(float));
  store_halves(halves_of_last, load_floats(last));
  std::memcpy(out + i, halves_of_last, (count - i) * sizeof(uint16_t));
}

}  // namespace

const float* cached(const Attention& a, const void* cache, long place, long count, float* room) {
  if (!a.has_halves) return static_cast<const float*>(cache) + place;
  const auto* in = static_cast<const uint16_t*>(cache) + place;
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store(room + i, halves(reinterpret_cast<const uint8_t*>(in + i)), kLanes);
  for (; i < count; i++) room[i] = half_to_float(in[i]);
  return room;
}

void prepare_head(const Attention& a, long token, long head) {
  const long size = a.head_dim, num_queries = a.num_heads, num_turned = num_queries + a.num_kv_heads;
  float* values = a.query + token * a.query_stride + head * size;
  if (head < num_turned) {
    const float* norm = head < num_queries ? a.query_norm : a.key_norm;
    if (norm) norm_row(values, norm, a.eps, size, values);
    if (a.cos) turn(values, a.cos + token * a.half, a.sin + token * a.half, a.half);
  }
  if (head < num_queries || a.slots[token] < 0) return;
  void* cache = head < num_turned ? a.keys : a.values;
  const long kv_head = (head - num_queries) % a.num_kv_heads;
  const long place = (a.slots[token] * a.num_kv_heads + kv_head) * size;
  if (a.has_halves) store_all_halves(values, size, static_cast<uint16_t*>(cache) + place);
  else std::memcpy(static_cast<float*>(cache) + place, values, size * sizeof(float));
}

}  // namespace tramontane
