// Attention of a single query row, as decoding has it: the cache is read once, in the order in which it lies. A long
// context is cut into stretches of fixed length, which any thread may take, so a row's bits depend on its own
// sequence alone.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "attention.h"
#include "maths.h"
#include "vectors.h"

namespace tramontane {
namespace {

constexpr long kLanes = 16;
constexpr long kNear = 16;  // tokens whose heads are done one after another, for they lie side by side

inline Floats load_numbers(const float* p) { return load_floats(p); }
inline Floats load_numbers(const uint16_t* p) { return halves(reinterpret_cast<const uint8_t*>(p)); }

// Keys of one head lie apart, which no prefetcher of a processor sees coming.
template <class Number>
inline void prefetch(const Number* p, long count) {
  for (long i = 0; i < count; i += 64 / sizeof(Number)) __builtin_prefetch(p + i);
}

// Some tokens of a stretch, as one head has them.
template <class Number>
struct Near {
  const Number* cache;
  const long* places;
  long count, size;
  const Number* next;  // the cache of the tokens to ask for, at `next_places`
  const long* next_places;
  long next_count;

  const Number* of(long i) const {
    if (i < next_count) prefetch(next + next_places[i], size);
    return cache + places[i];
  }
};

// Room of one thread.
struct Room {
  std::vector<float> scores;  // [Hq, kStretch]
  long places[kStretch];      // of tokens in the cache
};

// scores[kQueries, kStretch] of as many query heads.
template <int kQueries, class Number>
inline void score(const Near<Number>& keys, const float* query, float scale, float* scores) {
  Floats sums[kQueries][kNear];
  for (long i = 0; i < kNear; i++)
    for (int q = 0; q < kQueries; q++) sums[q][i] = zeros();
  for (long i = 0; i < keys.count; i++) {
    const Number* key = keys.of(i);
    Floats sum[kQueries];
    for (int q = 0; q < kQueries; q++) sum[q] = zeros();
    for (long d = 0; d < keys.size; d += kLanes) {
      const Floats numbers = load_numbers(key + d);
      for (int q = 0; q < kQueries; q++)
        sum[q] = multiply_add(load_floats(query + q * keys.size + d), numbers, sum[q]);
    }
    for (int q = 0; q < kQueries; q++) sums[q][i] = sum[q];
  }
  for (int q = 0; q < kQueries; q++)
    store(scores + q * kStretch, multiply(sums_of(sums[q]), floats(scale)), static_cast<int>(keys.count));
}

// out[kQueries, ..] += weights . values, kVectors of their vectors from dimension `first` on.
template <int kQueries, int kVectors, class Number>
inline void add_values(const Near<Number>& values, long first, const float* weights, float* out) {
  Floats sum[kQueries][kVectors];
  const long step = values.size + 2;
  for (int q = 0; q < kQueries; q++)
    for (int v = 0; v < kVectors; v++) sum[q][v] = load_floats(out + q * step + first + v * kLanes);
  for (long i = 0; i < values.count; i++) {
    const Number* value = first ? values.cache + values.places[i] : values.of(i);
    Floats numbers[kVectors];
    for (int v = 0; v < kVectors; v++) numbers[v] = load_numbers(value + first + v * kLanes);
    for (int q = 0; q < kQueries; q++) {
      const Floats weight = floats(weights[q * kStretch + i]);
      for (int v = 0; v < kVectors; v++) sum[q][v] = multiply_add(weight, numbers[v], sum[q][v]);
    }
  }
  for (int q = 0; q < kQueries; q++)
    for (int v = 0; v < kVectors; v++) store(out + q * step + first + v * kLanes, sum[q][v], kLanes);
}

template <int kQueries, class Number>
inline void add_all_values(const Near<Number>& values, const float* weights, float* out) {
  constexpr int kVectors = 4;
  long d = 0;
  for (; d + kVectors * kLanes <= values.size; d += kVectors * kLanes)
    add_values<kQueries, kVectors>(values, d, weights, out);
  for (; d < values.size; d += kLanes) add_values<kQueries, 1>(values, d, weights, out);
}

// Scores of a head to weights; the results' last two numbers. Beyond `count` there is room for a vector.
void weigh(float* scores, long count, float softcap, float* sum, float* largest) {
  if (softcap > 0)
    for (long i = 0; i < count; i++) scores[i] = softcap * tangent(scores[i] / softcap);
  const long end = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + count, scores + end, -INFINITY);
  float most[kLanes], sums[kLanes] = {}, all = -INFINITY, total = 0;
  std::fill(most, most + kLanes, -INFINITY);
  for (long i = 0; i < end; i += kLanes)
    for (long lane = 0; lane < kLanes; lane++) most[lane] = scores[i + lane] > most[lane] ? scores[i + lane] : most[lane];
  for (long lane = 0; lane < kLanes; lane++) all = std::max(all, most[lane]);
  for (long i = 0; i < end; i++) scores[i] = exponential(scores[i] - all);
  for (long i = 0; i < end; i += kLanes)
    for (long lane = 0; lane < kLanes; lane++) sums[lane] += scores[i + lane];
  for (long lane = 0; lane < kLanes; lane++) total += sums[lane];
  *sum = total, *largest = all;
}

// Calls with the first query head of each pair, and of what is left alone, and how many they are.
template <class Body>
inline void in_pairs(long first, long end, Body body) {
  for (; first + 2 <= end; first += 2) body(std::integral_constant<int, 2>(), first);
  if (first < end) body(std::integral_constant<int, 1>(), first);
}

// Not inline: a compiler would look up the thread's room for every number.
template <class Number>
__attribute__((noinline)) void attend(
    const Attention& a, const Stretch& stretch, long first_head, long last_head, Room& room) {
  const long size = a.head_dim, group = a.heads_of_group(), total = stretch.last - stretch.first + 1;
  const auto *keys = static_cast<const Number*>(a.keys), *values = static_cast<const Number*>(a.values);
  const float* query = a.query + stretch.row.row * a.query_stride;
  float* scores = room.scores.data();
  for (long i = 0; i < total; i++) room.places[i] = a.place(stretch.row.sequence, stretch.first + i);
  const auto near = [&](const Number* cache, const Number* after, long first, long head) {
    // The next ones are the next tokens', and at the end the first of `after`.
    const bool is_last = first + kNear >= total;
    const long offset = head * size, next = is_last ? 0 : first + kNear;
    return Near<Number>{cache + offset, room.places + first, std::min(kNear, total - first), size,
                        (is_last ? after : cache) + offset, room.places + next, std::min(kNear, total - next)};
  };
  for (long i = 0; i < total; i += kNear)
    for (long head = first_head; head < last_head; head++)
      in_pairs(head * group, (head + 1) * group, [&](auto count, long q) {
        score<count>(near(keys, values, i, head), query + q * size, a.scale, scores + q * kStretch + i);
      });
  for (long q = first_head * group; q < last_head * group; q++) {
    float* result = stretch.results + q * (size + 2);
    std::fill(result, result + size, 0.0f);
    weigh(scores + q * kStretch, total, a.softcap, result + size, result + size + 1);
  }
  for (long i = 0; i < total; i += kNear)
    for (long head = first_head; head < last_head; head++)
      in_pairs(head * group, (head + 1) * group, [&](auto count, long q) {
        add_all_values<count>(
            near(values, values, i, head), scores + q * kStretch + i, stretch.results + q * (size + 2));
      });
}

}  // namespace

void attend_stretch(const Attention& a, const Stretch& stretch, long first_head, long last_head) {
  static thread_local Room own;
  Room& room = own;
  room.scores.resize(a.num_heads * kStretch);
  const auto attend_all = a.has_halves ? attend<uint16_t> : attend<float>;
  attend_all(a, stretch, first_head, last_head, room);
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
