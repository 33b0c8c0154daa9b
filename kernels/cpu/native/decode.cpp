// Attention of a single query row, as decoding has it: the cache is read once, in the order in which it lies. A long
// context is cut into stretches of fixed length, which any thread may take, so a row's bits depend on its own
// sequence alone.
#include <algorithm>
#include <cmath>

#include "attention.h"
#include "maths.h"
#include "vectors.h"

namespace tramontane {
namespace {

constexpr long kLanes = 16;
constexpr long kNear = 16;  // tokens whose heads are done one after another, for they lie side by side

// Keys of one head lie apart, which no prefetcher of a processor sees coming.
inline void prefetch(const float* p, long count) {
  for (long i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// Room of one thread.
struct Room {
  std::vector<float> scores;          // [Hq, kStretch]
  const float *keys[kStretch], *values[kStretch];
};

float dot(const float* a, const float* b, long count) {
  Floats sum = zeros();
  for (long i = 0; i < count; i += kLanes) sum = multiply_add(load_floats(a + i), load_floats(b + i), sum);
  return sum_of(sum);
}

// out[D] += weights . values, kVectors of its vectors at a time.
template <int kVectors>
void add_values(const float* weights, const float* const* places, long count, long offset, float* out) {
  Floats sum[kVectors];
  for (int v = 0; v < kVectors; v++) sum[v] = load_floats(out + v * kLanes);
  for (long i = 0; i < count; i++) {
    const Floats weight = floats(weights[i]);
    for (int v = 0; v < kVectors; v++)
      sum[v] = multiply_add(weight, load_floats(places[i] + offset + v * kLanes), sum[v]);
  }
  for (int v = 0; v < kVectors; v++) store(out + v * kLanes, sum[v], kLanes);
}

void score(const Attention& a, const float* query, long head, long first, long count, long total, Room& room) {
  const long size = a.head_dim, group = a.heads_of_group(), offset = head * size;
  for (long i = first; i < first + count; i++) {
    if (i + kNear < total) prefetch(room.keys[i + kNear] + offset, size);
    for (long q = head * group; q < (head + 1) * group; q++)
      room.scores[q * kStretch + i] = dot(query + q * size, room.keys[i] + offset, size) * a.scale;
  }
}

// Scores of a head to weights; the results' last two numbers.
void weigh(float* scores, long count, float softcap, float* sum, float* largest) {
  if (softcap > 0)
    for (long i = 0; i < count; i++) scores[i] = softcap * tangent(scores[i] / softcap);
  float most = -INFINITY, total = 0;
  for (long i = 0; i < count; i++) most = std::max(most, scores[i]);
  for (long i = 0; i < count; i++) scores[i] = exponential(scores[i] - most);
  for (long i = 0; i < count; i++) total += scores[i];
  *sum = total, *largest = most;
}

void add_all_values(const Attention& a, float* results, long head, long first, long count, long total, Room& room) {
  const long size = a.head_dim, group = a.heads_of_group(), offset = head * size;
  for (long i = first + kNear; i < std::min(first + kNear + count, total); i++) prefetch(room.values[i] + offset, size);
  for (long q = head * group; q < (head + 1) * group; q++) {
    const float* weights = &room.scores[q * kStretch + first];
    float* out = results + q * (size + 2);
    long d = 0;
    for (; d + 8 * kLanes <= size; d += 8 * kLanes)
      add_values<8>(weights, room.values + first, count, offset + d, out + d);
    for (; d < size; d += kLanes) add_values<1>(weights, room.values + first, count, offset + d, out + d);
  }
}

}  // namespace

void attend_stretch(const Attention& a, const Stretch& stretch, long first_head, long last_head) {
  static thread_local Room room;
  const long size = a.head_dim, group = a.heads_of_group(), total = stretch.last - stretch.first + 1;
  const float* query = a.query + stretch.row.row * a.query_stride;
  room.scores.resize(a.num_heads * kStretch);
  for (long i = 0; i < total; i++) {
    const long place = a.place(stretch.row.sequence, stretch.first + i);
    room.keys[i] = a.keys + place, room.values[i] = a.values + place;
  }
  for (long i = 0; i < total; i += kNear)
    for (long head = first_head; head < last_head; head++)
      score(a, query, head, i, std::min(kNear, total - i), total, room);
  for (long q = first_head * group; q < last_head * group; q++) {
    float* result = stretch.results + q * (size + 2);
    std::fill(result, result + size, 0.0f);
    weigh(&room.scores[q * kStretch], total, a.softcap, result + size, result + size + 1);
  }
  for (long i = 0; i < total; i += kNear)
    for (long head = first_head; head < last_head; head++)
      add_all_values(a, stretch.results, head, i, std::min(kNear, total - i), total, room);
}

void merge_stretches(const Attention& a, const Stretch& first, long count, long query_head) {
  const long size = a.head_dim, step = a.num_heads * (size + 2);
  const float* results = first.results + query_head * (size + 2);
  float* out = a.out + (first.row.row * a.num_heads + query_head) * size;
  float largest = -INFINITY, sum = 0;
  for (long s = 0; s < count; s++) largest = std::max(largest, results[s * step + size + 1]);
  std::fill(out, out + size, 0.0f);
  for (long s = 0; s < count; s++) {
    const float* result = results + s * step;
    const float factor = exponential(result[size + 1] - largest);
    sum += result[size] * factor;
    for (long d = 0; d < size; d++) out[d] += result[d] * factor;
  }
  const float inverse = 1.0f / sum;
  for (long d = 0; d < size; d++) out[d] *= inverse;
}

}  // namespace tramontane
