// Attention over a paged cache, read in place: cuts a step into pieces of work for all threads. A sequence with one row
// is a decode, in stretches of its context; any other is a prefill, in chunks of rows. How a sequence is cut follows
// from its own lengths alone.
#include "attention.h"

#include <algorithm>

#include <omp.h>

namespace tramontane {
namespace {

constexpr long kHeads = 4;            // KV heads of a decode's piece: their keys lie side by side
constexpr long kHeadsOfAThread = 48;  // fewer heads are prepared before another thread is awake

// The pieces of a step.
struct Plan {
  std::vector<Rows> chunks;
  std::vector<Stretch> stretches;
  std::vector<long> first_stretches;  // of each decode, and the end
  std::vector<float> results;

  void make(const Attention& a) {
    chunks.clear(), stretches.clear(), first_stretches.clear();
    for (long s = 0; s < a.num_sequences; s++) {
      const long count = a.starts[s + 1] - a.starts[s];
      const Rows rows = {s, a.starts[s], a.lengths[s] - count, count};
      if (count == 1 && a.head_dim % kDecodeDims == 0) add_decode(a, rows);
      else add_chunks(a, rows);
    }
    first_stretches.push_back(stretches.size());
    const long size = a.num_heads * (a.head_dim + 2);
    results.resize(stretches.size() * size);
    for (size_t i = 0; i < stretches.size(); i++) stretches[i].results = results.data() + i * size;
  }

  void add_decode(const Attention& a, const Rows& row) {
    first_stretches.push_back(stretches.size());
    for (long first = a.first_visible(row.position); first <= row.position; first += kStretch)
      stretches.push_back({row, first, std::min(first + kStretch - 1, row.position), nullptr});
  }

  // The last first: they see most, and what is left at the end should be short.
  void add_chunks(const Attention& a, const Rows& rows) {
    const long size = rows_of_chunk(a);
    for (long start = (rows.count - 1) / size * size; start >= 0 && rows.count; start -= size)
      chunks.push_back(
          {rows.sequence, rows.row + start, rows.position + start, std::min(size, rows.count - start)});
  }
};

}  // namespace
}  // namespace tramontane

using namespace tramontane;

extern "C" void tr_attention(const Attention* call, int num_threads) {
  static thread_local Plan own;
  const Attention& a = *call;
  Plan& plan = own;
  plan.make(a);
  const long num_rows = a.starts[a.num_sequences], num_heads = a.num_heads + 2 * a.num_kv_heads;
  const long groups = (a.num_kv_heads + kHeads - 1) / kHeads;
  const long num_decodes = plan.first_stretches.size() - 1;
  const bool are_few = num_rows * num_heads < kHeadsOfAThread;
  if (a.slots && are_few)
    for (long i = 0; i < num_rows * num_heads; i++) prepare_head(a, i / num_heads, i % num_heads);
#pragma omp parallel num_threads(num_threads)
  {
    if (a.slots && !are_few) {
#pragma omp for schedule(static)
      for (long i = 0; i < num_rows * num_heads; i++) prepare_head(a, i / num_heads, i % num_heads);
    }
#pragma omp for schedule(dynamic, 1) nowait
    for (long i = 0; i < static_cast<long>(plan.chunks.size()) * a.num_kv_heads; i++)
      attend_chunk(a, plan.chunks[i / a.num_kv_heads], i % a.num_kv_heads);
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < static_cast<long>(plan.stretches.size()) * groups; i++) {
      const long head = i % groups * kHeads;
      attend_stretch(a, plan.stretches[i / groups], head, std::min(head + kHeads, a.num_kv_heads));
    }
#pragma omp for schedule(static) nowait
    for (long i = 0; i < num_decodes * a.num_heads; i++) {
      const long first = plan.first_stretches[i / a.num_heads];
      merge_stretches(a, plan.stretches[first], plan.first_stretches[i / a.num_heads + 1] - first, i % a.num_heads);
    }
  }
}
