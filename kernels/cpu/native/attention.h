// Attention over a paged cache: what its parts share. attention.cpp is what Python calls.
#pragma once
#include <cstdint>
#include <vector>

namespace tramontane {

// A call's arguments, as Python gives them. T tokens of S sequences; caches are [N, B, Hkv, D].
struct Attention {
  float* query;                          // [T, Hq, D], rows query_stride apart
  void *keys, *values;                   // float32, or float16 if has_halves
  const int32_t *tables, *starts, *lengths;  // [S, table_width], [S + 1], [S]
  float* out;                            // [T, Hq, D]
  long query_stride, table_width, block_size, num_kv_heads, num_heads, head_dim, num_sequences, window;
  float scale, softcap;
  // What turns a row of projections [Hq + 2 Hkv, D] at `query` into queries and cached keys and values; without
  // slots the queries are ready and nothing is written. Norms may be missing, and so may the rotation.
  const int64_t* slots;                  // [T]
  const float *query_norm, *key_norm;    // [D]
  const float *cos, *sin;                // [T, half]
  long half;
  float eps;
  int has_halves;

  long heads_of_group() const { return num_heads / num_kv_heads; }
  // Where a token's key or value of the first KV head lies.
  long place(long sequence, long position) const {
    const long block = tables[sequence * table_width + position / block_size];
    return (block * block_size + position % block_size) * num_kv_heads * head_dim;
  }
  long first_visible(long position) const {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
};

// Numbers of the cache at `place`, in float32: where they lie, or copied to `room`.
const float* cached(const Attention& a, const void* cache, long place, long count, float* room);

// Room for `count` floats where a vector of 16 crosses no line of a cache.
inline float* aligned(std::vector<float>& memory, long count) {
  if (static_cast<long>(memory.size()) < count + 16) memory = std::vector<float>(count + 16);
  return memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 63) / 4;
}

// Consecutive query rows of a sequence, from row `row` of the call on.
struct Rows {
  long sequence, row, position, count;
};

// heads.cpp: normalises, turns and stores head `head` of Hq + 2 Hkv of one token; `cached` above.
void prepare_head(const Attention& a, long token, long head);

// chunk.cpp: rows that share the reading of a KV head; at most `rows_of_chunk`. kMaxGroup query heads a KV head.
constexpr long kMaxGroup = 64;
long rows_of_chunk(const Attention& a);
void attend_chunk(const Attention& a, const Rows& rows, long head);

// decode.cpp: a single row, in stretches of its context, whose results are merged.
constexpr long kStretch = 128;
constexpr long kDecodeDims = 16;  // of which a head's size must be a multiple
struct Stretch {
  Rows row;
  long first, last;      // tokens of this stretch
  float* results;        // [Hq, D + 2]: weighted values, the sum of weights, the largest score
};
void attend_stretch(const Attention& a, const Stretch& stretch, long first_head, long last_head);
// Of `count` stretches whose results lie one after another.
void merge_stretches(const Attention& a, const Stretch& first, long count, long query_head);

}  // namespace tramontane
