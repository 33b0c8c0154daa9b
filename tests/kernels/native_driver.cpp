// Calls one function of the C++ library with what comes from standard input, for processors that Python is not run
// on. Numbers are in the order of the arguments; the answer goes to standard output as it lies in memory.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../kernels/cpu/native/attention.h"

struct TrWeight {
  const uint8_t* tiles;
  long type, rows;
};
extern "C" {
const char* tr_path();
long tr_tiles_bytes(int type, long rows, long columns);
void tr_repack(int type, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out);
void tr_rows(const TrWeight* weight, long columns, const int64_t* indices, long count, float* out);
void tr_linear(const TrWeight* weights, int num_weights, const float* x, long num_rows, long columns, int exact,
               int num_threads, float* y);
void tr_rms_norm(const float* x, const float* residual, const float* weight, float eps, long rows, long size,
                 int num_threads, float* hidden, float* out);
void tr_attention(const tramontane::Attention* call, int num_threads);
}

template <class T>
std::vector<T> read(long count) {
  std::vector<T> out(count);
  if (static_cast<long>(std::fread(out.data(), sizeof(T), count, stdin)) != count) std::exit(2);
  return out;
}

void answer(const std::vector<float>& out) { std::fwrite(out.data(), sizeof(float), out.size(), stdout); }

// All rows, then their products with `count` rows of inputs.
void linear(int type, long row_bytes, long rows, long columns, long count, int exact) {
  const auto blocks = read<uint8_t>(rows * row_bytes);
  const auto x = read<float>(count * columns);
  std::vector<uint8_t> tiles(tr_tiles_bytes(type, rows, columns));
  tr_repack(type, blocks.data(), rows, columns, 1, tiles.data());
  const TrWeight weight = {tiles.data(), type, rows};
  std::vector<int64_t> indices(rows);
  for (long i = 0; i < rows; i++) indices[i] = i;
  std::vector<float> weights(rows * columns), y(count * rows);
  tr_rows(&weight, columns, indices.data(), rows, weights.data());
  tr_linear(&weight, 1, x.data(), count, columns, exact, 1, y.data());
  answer(weights), answer(y);
}

void norm(long rows, long size) {
  const auto x = read<float>(rows * size), residual = read<float>(rows * size), weight = read<float>(size);
  std::vector<float> hidden(rows * size), out(rows * size);
  tr_rms_norm(x.data(), residual.data(), weight.data(), 1e-6f, rows, size, 1, hidden.data(), out.data());
  answer(hidden), answer(out);
}

// One sequence in blocks that follow each other, one query row.
void decode(long length, long block_size, long num_kv_heads, long num_heads, long head_dim) {
  const long num_blocks = (length + block_size - 1) / block_size, size = num_blocks * block_size * num_kv_heads * head_dim;
  auto query = read<float>(num_heads * head_dim), keys = read<float>(size), values = read<float>(size);
  std::vector<int32_t> table(num_blocks);
  for (long i = 0; i < num_blocks; i++) table[i] = i;
  const int32_t starts[] = {0, 1}, lengths[] = {static_cast<int32_t>(length)};
  std::vector<float> out(num_heads * head_dim);
  tramontane::Attention call = {};
  call.query = query.data(), call.keys = keys.data(), call.values = values.data();
  call.tables = table.data(), call.starts = starts, call.lengths = lengths, call.out = out.data();
  call.query_stride = num_heads * head_dim, call.table_width = num_blocks, call.block_size = block_size;
  call.num_kv_heads = num_kv_heads, call.num_heads = num_heads, call.head_dim = head_dim, call.num_sequences = 1;
  call.scale = 0.125f;
  tr_attention(&call, 1);
  answer(out);
}

int main(int argc, char** argv) {
  long n[8] = {};
  for (int i = 2; i < argc && i < 10; i++) n[i - 2] = std::atol(argv[i]);
  const char* what = argc > 1 ? argv[1] : "";
  if (!std::strcmp(what, "path")) std::fputs(tr_path(), stdout);
  else if (!std::strcmp(what, "linear")) linear(n[0], n[1], n[2], n[3], n[4], n[5]);
  else if (!std::strcmp(what, "norm")) norm(n[0], n[1]);
  else if (!std::strcmp(what, "decode")) decode(n[0], n[1], n[2], n[3], n[4]);
  else return 1;
}
