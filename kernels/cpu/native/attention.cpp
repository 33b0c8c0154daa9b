// Attention of single query rows over a paged cache, read in place: what decoding does. A row's result depends on its
// own sequence alone, for one thread works through one row and one KV head.
#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>

#include "vectors.h"

namespace tramontane {
namespace {

constexpr long kLanes = 16;
constexpr long kStretch = 64;  // keys or values that a core's first cache holds beside the rest

// Keys of one head lie apart, which no prefetcher of a processor sees coming.
constexpr long kAhead = 8;
inline void prefetch(const float* p, long count) {
  for (long i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// What all rows share. The caches are [N, B, Hkv, D], the tables [S, M].
struct Cache {
  const float *keys, *values;
  const int32_t* tables;
  long table_width, block_size, num_kv_heads, head_dim;
  float scale, softcap;

  const float* at(const float* cache, long sequence, long position, long head) const {
    const long block = tables[sequence * table_width + position / block_size];
    return cache + ((block * block_size + position % block_size) * num_kv_heads + head) * head_dim;
  }
};

// Room of one thread.
struct Room {
  std::vector<float> scores;          // [G, L]
  std::vector<const float*> places;   // [L]
};

float dot(const float* a, const float* b, long count) {
  Floats sum = zeros();
  for (long i = 0; i < count; i += kLanes) sum = multiply_add(load_floats(a + i), load_floats(b + i), sum);
  return sum_of(sum);
}

// Scores to weights that are still to be divided by their sum, which is returned.
float exponentiate(float* scores, long count, float softcap) {
  float largest = -INFINITY, sum = 0;
  for (long i = 0; i < count; i++) {
    if (softcap > 0) scores[i] = softcap * std::tanh(scores[i] / softcap);
    largest = std::max(largest, scores[i]);
  }
  for (long i = 0; i < count; i++) sum += scores[i] = std::exp(scores[i] - largest);
  return sum;
}

// out[64] += weights . values for 64 dimensions at a time, or 16.
template <int kVectors>
void add_values(const float* weights, const float* const* places, long count, long dimension, float* out) {
  Floats sum[kVectors];
  for (int v = 0; v < kVectors; v++) sum[v] = load_floats(out + v * kLanes);
  for (long i = 0; i < count; i++) {
    const Floats weight = floats(weights[i]);
    for (int v = 0; v < kVectors; v++)
      sum[v] = multiply_add(weight, load_floats(places[i] + dimension + v * kLanes), sum[v]);
  }
  for (int v = 0; v < kVectors; v++) store(out + v * kLanes, sum[v], kLanes);
}

// One query row [G, D] of the heads that share a KV head, over the tokens `first` to `last`.
void attend(const Cache& cache, long sequence, long head, const float* query, long num_queries, long first, long last,
            Room& room, float* out) {
  const long length = last - first + 1, size = cache.head_dim;
  room.scores.resize(num_queries * length);
  room.places.resize(length);
  for (long i = 0; i < length; i++) room.places[i] = cache.at(cache.keys, sequence, first + i, head);
  for (long i = 0; i < length; i++) {
    const float* key = room.places[i];
    if (i + kAhead < length) prefetch(room.places[i + kAhead], size);
    room.places[i] += cache.values - cache.keys;
    for (long q = 0; q < num_queries; q++)
      room.scores[q * length + i] = dot(query + q * size, key, size) * cache.scale;
  }
  std::fill(out, out + num_queries * size, 0.0f);
  std::vector<float> sums(num_queries);
  for (long q = 0; q < num_queries; q++) sums[q] = exponentiate(&room.scores[q * length], length, cache.softcap);
  for (long start = 0; start < length; start += kStretch) {
    const long count = std::min(kStretch, length - start);
    for (long i = 0; i < count; i++) prefetch(room.places[start + i], size);
    for (long q = 0; q < num_queries; q++) {
      const float* weights = &room.scores[q * length + start];
      long dimension = 0;
      for (; dimension + 4 * kLanes <= size; dimension += 4 * kLanes)
        add_values<4>(weights, &room.places[start], count, dimension, out + q * size + dimension);
      for (; dimension < size; dimension += kLanes)
        add_values<1>(weights, &room.places[start], count, dimension, out + q * size + dimension);
    }
  }
  for (long q = 0; q < num_queries; q++)
    for (long i = 0; i < size; i++) out[q * size + i] /= sums[q];
}

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// Query and output [T, Hkv * G, D]; `decodes` [count, 4]: a sequence, its row, the first token it sees and the last.
extern "C" void tr_decode(const float* query, const float* keys, const float* values, const int32_t* tables,
                          long table_width, long block_size, long num_kv_heads, long num_heads, long head_dim,
                          float scale, float softcap, const int64_t* decodes, long count, int num_threads, float* out) {
  const Cache cache = {keys, values, tables, table_width, block_size, num_kv_heads, head_dim, scale, softcap};
  const long num_queries = num_heads / num_kv_heads;
#pragma omp parallel num_threads(num_threads)
  {
    static thread_local Room room;
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < count * num_kv_heads; item++) {
      const int64_t* decode = decodes + item / num_kv_heads * 4;
      const long head = item % num_kv_heads;
      const long offset = (decode[1] * num_heads + head * num_queries) * head_dim;
      attend(cache, decode[0], head, query + offset, num_queries, decode[2], decode[3], room, out + offset);
    }
  }
}
