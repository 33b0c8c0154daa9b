// Philox4x32-10 (Salmon et al., SC11): uniforms as a function of seed, choice and position, in the bits of
// kernels/reference/philox.py.
#include <cstdint>

namespace tramontane {
namespace {

constexpr int kRounds = 10;
constexpr int kLane = 16;  // quads side by side: a register of 32-bit words

// The middle of the interval of a word's 23 high bits.
inline float centred(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; }

// As many quads as a register has words, each with its counter and its key.
struct Lanes {
  uint32_t c0[kLane], c1[kLane], c2[kLane], c3[kLane], k0[kLane], k1[kLane];

  void set(int lane, int64_t seed, int64_t choice, int64_t position, int64_t quad) {
    c0[lane] = static_cast<uint32_t>(quad), c1[lane] = static_cast<uint32_t>(position);
    c2[lane] = static_cast<uint32_t>(choice), c3[lane] = 0;
    k0[lane] = static_cast<uint32_t>(seed), k1[lane] = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  }

  void mix() {
    for (int round = 0; round < kRounds; round++) {
#pragma GCC ivdep
      for (int i = 0; i < kLane; i++) {
        const uint64_t even = uint64_t{c0[i]} * 0xD2511F53u, odd = uint64_t{c2[i]} * 0xCD9E8D57u;
        const uint32_t high = static_cast<uint32_t>(odd >> 32) ^ c1[i] ^ k0[i];
        const uint32_t low = static_cast<uint32_t>(even >> 32) ^ c3[i] ^ k1[i];
        c0[i] = high, c1[i] = static_cast<uint32_t>(odd);
        c2[i] = low, c3[i] = static_cast<uint32_t>(even);
        k0[i] += 0x9E3779B9u, k1[i] += 0xBB67AE85u;
      }
    }
  }

  void store(int count, float* out) const {
    for (int i = 0; i < count; i++) {
      out[4 * i] = centred(c0[i]), out[4 * i + 1] = centred(c1[i]);
      out[4 * i + 2] = centred(c2[i]), out[4 * i + 3] = centred(c3[i]);
    }
  }
};

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// out[n, 4]: elements 4q to 4q + 3 of the row of uniforms of rows[n], for q = quads[n].
extern "C" void tr_uniform_quads(const int64_t* seeds, const int64_t* choices, const int64_t* positions,
                                 const int64_t* rows, const int64_t* quads, long num, float* out) {
  Lanes lanes{};
  for (long start = 0; start < num; start += kLane) {
    const int count = num - start < kLane ? static_cast<int>(num - start) : kLane;
    for (int i = 0; i < count; i++) {
      const int64_t row = rows[start + i];
      lanes.set(i, seeds[row], choices[row], positions[row], quads[start + i]);
    }
    lanes.mix();
    lanes.store(count, out + 4 * start);
  }
}

// out[rows, 4 * num_quads]: whole rows of uniforms.
extern "C" void tr_uniform(const int64_t* seeds, const int64_t* choices, const int64_t* positions, long num_rows,
                           long num_quads, float* out) {
  Lanes lanes{};
  for (long row = 0; row < num_rows; row++, out += 4 * num_quads) {
    for (long start = 0; start < num_quads; start += kLane) {
      const int count = num_quads - start < kLane ? static_cast<int>(num_quads - start) : kLane;
      for (int i = 0; i < kLane; i++) lanes.set(i, seeds[row], choices[row], positions[row], start + i);
      lanes.mix();
      lanes.store(count, out + 4 * start);
    }
  }
}
