// Attention of many query rows of a sequence, with a running softmax over blocks of keys. The query rows of all heads
// that share a KV head are the lanes of vectors: keys and values need no rearranging, for they come in one number
// for all lanes, and no sum runs across lanes.
#include <algorithm>
#include <cmath>

#include "attention.h"
#include "maths.h"
#include "vectors.h"

namespace tramontane {
namespace {

constexpr long kLanes = kMaxGroup, kKeys = 64;  // of one pass
constexpr long kVector = 16;
#ifdef TR_AVX512
constexpr int kVectors = 4;  // that a product keeps in registers, for each of four numbers
#else
constexpr int kVectors = 1;
#endif

// Room of one thread; [.., lanes] all of it.
struct Room {
  std::vector<float> memory;
  float *queries, *sums;  // [D, lanes]
  // [keys, D], a copy of values: as they lie in the cache, most would share a set of a core's cache. Before, keys in
  // float32, if the cache has others.
  float* values;
  alignas(64) float scores[kKeys * kLanes];
  float largest[kLanes], total[kLanes];
  long positions[kLanes], places[kKeys];
  const float* keys[kKeys];
};

// out[i .. i + kCount][lanes] = or += the sum over k < depth of a(i, k) * b[k][lanes].
template <bool kAdd, int kCount, class Number>
inline void product_tile(long i, long depth, Number a, const float* b, float* out) {
  for (long lane = 0; lane < kLanes; lane += kVectors * kVector) {
    Floats sum[kCount][kVectors];
    for (int r = 0; r < kCount; r++)
      for (int v = 0; v < kVectors; v++)
        sum[r][v] = kAdd ? load_floats(out + (i + r) * kLanes + lane + v * kVector) : zeros();
    for (long k = 0; k < depth; k++) {
      Floats row[kVectors];
      for (int v = 0; v < kVectors; v++) row[v] = load_floats(b + k * kLanes + lane + v * kVector);
#ifdef TR_AVX512  // or GCC loads them again for every number
      for (int v = 0; v < kVectors; v++) asm("" : "+v"(row[v]));
#endif
      for (int r = 0; r < kCount; r++) {
        const Floats number = floats(a(i + r, k));
        for (int v = 0; v < kVectors; v++) sum[r][v] = multiply_add(number, row[v], sum[r][v]);
      }
    }
    for (int r = 0; r < kCount; r++)
      for (int v = 0; v < kVectors; v++) store(out + (i + r) * kLanes + lane + v * kVector, sum[r][v], kVector);
  }
}

template <bool kAdd, class Number>
inline void product(long count, long depth, Number a, const float* b, float* out) {
  long i = 0;
  for (; i + 4 <= count; i += 4) product_tile<kAdd, 4>(i, depth, a, b, out);
  for (; i < count; i++) product_tile<kAdd, 1>(i, depth, a, b, out);
}

// Hides what a row must not see: what comes after it, and what its window has left behind.
void mask(const Attention& a, Room& room, long first_key, long count) {
  for (long j = 0; j < count; j++) {
    const long key = first_key + j, past_window = a.window > 0 ? key + a.window : INT64_MAX;
    float* scores = room.scores + j * kLanes;
    for (long lane = 0; lane < kLanes; lane++) {
      const bool is_seen = key <= room.positions[lane] && room.positions[lane] < past_window;
      scores[lane] = is_seen ? scores[lane] : -INFINITY;
    }
  }
}

void cap(const Attention& a, Room& room, long count) {
  const float inverse = 1.0f / a.softcap;
  for (long i = 0; i < count * kLanes; i++) room.scores[i] = a.softcap * tangent(room.scores[i] * inverse);
}

// Scores to weights relative to the largest score so far, to which the sums of before are brought too.
void weigh(const Attention& a, Room& room, long count) {
  float factor[kLanes], base[kLanes];
  for (long lane = 0; lane < kLanes; lane++) base[lane] = room.largest[lane];
  for (long j = 0; j < count; j++) {
    const float* scores = room.scores + j * kLanes;
    for (long lane = 0; lane < kLanes; lane++) base[lane] = scores[lane] > base[lane] ? scores[lane] : base[lane];
  }
  for (long lane = 0; lane < kLanes; lane++) {
    const float largest = base[lane];
    base[lane] = largest == -INFINITY ? 0.0f : largest;  // nothing seen yet: weights of 0, not of NaN
    factor[lane] = exponential(room.largest[lane] - base[lane]);
    room.largest[lane] = largest;
    room.total[lane] *= factor[lane];
  }
  for (long j = 0; j < count; j++) {
    float* scores = room.scores + j * kLanes;
    for (long lane = 0; lane < kLanes; lane++) {
      scores[lane] = exponential(scores[lane] - base[lane]);
      room.total[lane] += scores[lane];
    }
  }
  for (long d = 0; d < a.head_dim; d++)
    for (long lane = 0; lane < kLanes; lane++) room.sums[d * kLanes + lane] *= factor[lane];
}

// The rows' queries of a KV head as lanes, times the scale. Lanes too many repeat the last row with a query of 0.
void start(const Attention& a, const Rows& rows, long head, Room& room) {
  const long size = a.head_dim, group = a.heads_of_group();
  room.queries = aligned(room.memory, size * (2 * kLanes + kKeys));
  room.sums = room.queries + size * kLanes, room.values = room.sums + size * kLanes;
  std::fill(room.queries, room.queries + 2 * size * kLanes, 0.0f);
  const float* queries[kLanes];
  for (long lane = 0; lane < kLanes; lane++) {
    const long row = std::min(lane / group, rows.count - 1);
    room.positions[lane] = rows.position + row;
    room.largest[lane] = -INFINITY, room.total[lane] = 0.0f;
    queries[lane] = a.query + (rows.row + row) * a.query_stride + (head * group + lane % group) * size;
  }
  const long count = rows.count * group;
  for (long lane = 0; lane < count; lane += kVector) {
    const long last = std::min(kVector, count - lane);
    long d = 0;
    for (; d + kVector <= size; d += kVector) {
      Floats block[kVector];
      for (long i = 0; i < kVector; i++) block[i] = i < last ? load_floats(queries[lane + i] + d) : zeros();
      transpose(block);
      for (long i = 0; i < kVector; i++)
        store(room.queries + (d + i) * kLanes + lane, multiply(block[i], floats(a.scale)), kVector);
    }
    for (; d < size; d++)
      for (long i = lane; i < lane + last; i++) room.queries[d * kLanes + i] = queries[i][d] * a.scale;
  }
}

void finish(const Attention& a, const Rows& rows, long head, const Room& room) {
  const long size = a.head_dim, group = a.heads_of_group(), count = rows.count * group;
  const auto out_of = [&](long lane) {
    return a.out + ((rows.row + lane / group) * a.num_heads + head * group + lane % group) * size;
  };
  float inverse[kLanes];
  for (long lane = 0; lane < kLanes; lane++) inverse[lane] = 1.0f / room.total[lane];
  for (long lane = 0; lane < count; lane += kVector) {
    const long last = std::min(kVector, count - lane);
    long d = 0;
    for (; d + kVector <= size; d += kVector) {
      Floats block[kVector];
      for (long i = 0; i < kVector; i++)
        block[i] = multiply(load_floats(room.sums + (d + i) * kLanes + lane), load_floats(inverse + lane));
      transpose(block);
      for (long i = 0; i < last; i++) store(out_of(lane + i) + d, block[i], kVector);
    }
    for (; d < size; d++)
      for (long i = lane; i < lane + last; i++) out_of(i)[d] = room.sums[d * kLanes + i] * inverse[i];
  }
}

// Scores and values of some keys. Not inline: a compiler would look up the thread's room for every number.
__attribute__((noinline)) void attend_keys(const Attention& a, const Rows& rows, long offset, long key, Room& room) {
  const long last = rows.position + rows.count - 1, count = std::min(kKeys, last - key + 1);
  const long size = a.head_dim;
  const float** keys = room.keys;
  float* values = room.values;
  long* places = room.places;
  for (long j = 0; j < count; j++) {
    places[j] = a.place(rows.sequence, key + j) + offset;
    keys[j] = cached(a, a.keys, places[j], size, values + j * size);
  }
  product<false>(count, size, [=](long j, long d) { return keys[j][d]; }, room.queries, room.scores);
  if (a.softcap > 0) cap(a, room, count);
  if (key + count - 1 > rows.position || key < a.first_visible(last)) mask(a, room, key, count);
  weigh(a, room, count);
  for (long j = 0; j < count; j++) {
    const float* value = cached(a, a.values, places[j], size, values + j * size);
    if (!a.has_halves) std::copy(value, value + size, values + j * size);
  }
  product<true>(size, count, [=](long d, long j) { return values[j * size + d]; }, room.scores, room.sums);
}

}  // namespace

long rows_of_chunk(const Attention& a) { return kLanes / a.heads_of_group(); }

void attend_chunk(const Attention& a, const Rows& rows, long head) {
  static thread_local Room own;
  Room& room = own;
  start(a, rows, head, room);
  for (long key = a.first_visible(rows.position); key < rows.position + rows.count; key += kKeys)
    attend_keys(a, rows, head * a.head_dim, key, room);
  finish(a, rows, head, room);
}

}  // namespace tramontane
