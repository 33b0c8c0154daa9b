"""The next id of each row of logits: filters without a sort, and a draw by Gumbel-max.

The first kernel makes all noise and finds the best sums of parts of a row. That is the outcome, if
nothing is filtered. Else the second asks whether the best of all tokens stays; if not, nothing as
probable or less does, and it asks the best of the rest. What stays is an upper part of the row, so
the first that does is the best of those that do: the outcome is exact. A round more is needed as
often as the draw falls outside, which for usual filters is seldom.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_rows, expect_shape

_PART_BLOCK = 1024
_ROW_BLOCK = 4096
_MAX_PARTS = 64
_NUM_PROGRAMS = 256  # about two for each multiprocessor of a large GPU
_GREEDY_BELOW = tl.constexpr(1e-7)
_NO_TOKEN = tl.constexpr(0x7FFFFFFF)
_NUM_DIGITS = tl.constexpr(256)


@triton.jit
def _noise(seed, choice, position, start, BLOCK: tl.constexpr):
    """Gumbel noise of tokens `start` to `start + BLOCK`, of the bits of kernels/philox.py."""
    counter = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = counter * 0
    a, b, c, d = tl.philox(seed, counter, zero + position, zero + choice, zero)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    uniform = ((words >> 9).to(tl.float32) + 0.5) * (2.0**-23)
    return -tl.log(-tl.log(uniform))


@triton.jit
def _scaled(row, token, vocab_size, temperature):
    """Logits divided by the temperature, -inf past the end."""
    logits = tl.load(row + token, mask=token < vocab_size, other=-float("inf"))
    return tl.div_rn(logits, tl.zeros_like(logits) + temperature)


@triton.jit
def _best_of(sums, tokens):
    """The largest sum and the lowest token that has it."""
    best = tl.max(sums, axis=0)
    return best, tl.min(tl.where(sums == best, tokens, _NO_TOKEN), axis=0)


@triton.jit(do_not_specialize=["num_parts"])
def _sample_kernel(
    logits,
    temperatures,
    seeds,
    choices,
    positions,
    part_sums,
    part_tokens,
    part_logits,
    vocab_size,
    logits_stride,
    part_size,
    num_parts,
    BLOCK: tl.constexpr,
):
    """Of one part of one row: the best sum, its token, and the largest logit."""
    index = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row = logits + index * logits_stride
    temperature = tl.load(temperatures + index)
    is_greedy = temperature < _GREEDY_BELOW
    temperature = tl.where(is_greedy, 1.0, temperature)
    seed = tl.load(seeds + index)
    choice = tl.load(choices + index).to(tl.uint32)
    position = tl.load(positions + index).to(tl.uint32)
    sums = tl.full([BLOCK], -float("inf"), tl.float32)
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    tokens = tl.full([BLOCK], _NO_TOKEN, tl.int32)
    begin = part * part_size
    for start in range(begin, tl.minimum(begin + part_size, vocab_size), BLOCK):
        token = start + tl.arange(0, BLOCK)
        scaled = _scaled(row, token, vocab_size, temperature)
        highest = tl.maximum(highest, scaled)
        noisy = scaled
        if not is_greedy:
            noisy = scaled + _noise(seed, choice, position, start, BLOCK)
        is_better = noisy > sums
        sums = tl.where(is_better, noisy, sums)
        tokens = tl.where(is_better, token, tokens)
    best, token = _best_of(sums, tokens)
    place = index * num_parts + part
    tl.store(part_sums + place, best)
    tl.store(part_tokens + place, token)
    tl.store(part_logits + place, tl.max(highest, axis=0))


@triton.jit
def _ordered(values):
    """Floats to unsigned integers in the same order."""
    bits = values.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _kth_largest(row, vocab_size, temperature, k, BLOCK: tl.constexpr):
    """The `k`-th largest scaled logit: its digits, found from the highest by counting."""
    prefix = tl.zeros([], tl.uint32)
    digit = tl.arange(0, _NUM_DIGITS)
    for place in tl.static_range(4):
        shift = 24 - 8 * place
        counts = tl.zeros([_NUM_DIGITS], tl.int32)
        for start in range(0, vocab_size, BLOCK):
            token = start + tl.arange(0, BLOCK)
            key = _ordered(_scaled(row, token, vocab_size, temperature))
            is_asked = token < vocab_size
            if place > 0:
                is_asked = is_asked & (key >> (shift + 8) == prefix >> (shift + 8))
            digits = ((key >> shift) & 255).to(tl.int32)
            counts += tl.histogram(digits, _NUM_DIGITS, mask=is_asked)
        above = tl.sum(counts, axis=0) - tl.cumsum(counts, axis=0)
        # The k-th is of the largest digit that, with those above it, has k tokens.
        found = tl.max(tl.where(above + counts >= k, digit, 0), axis=0)
        k -= tl.sum(tl.where(digit == found, above, 0), axis=0)
        prefix = prefix | (found.to(tl.uint32) << shift)
    bits = tl.where(prefix >> 31 != 0, prefix ^ 0x80000000, prefix ^ 0xFFFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _mass(
    row, vocab_size, temperature, highest, bound, INCLUSIVE: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum of exp(logit - highest) of the tokens above `bound`, or at it if `INCLUSIVE`."""
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab_size, BLOCK):
        token = start + tl.arange(0, BLOCK)
        scaled = _scaled(row, token, vocab_size, temperature)
        is_counted = (scaled >= bound) if INCLUSIVE else (scaled > bound)
        mass += tl.where(is_counted, tl.exp(scaled - highest), 0.0)
    return tl.sum(mass, axis=0)


@triton.jit
def _best_above(
    row, vocab_size, temperature, low, last, seed, choice, position, BLOCK: tl.constexpr
):
    """The token with the best sum of those that are at least `low` and above `last`."""
    sums = tl.full([BLOCK], -float("inf"), tl.float32)
    tokens = tl.full([BLOCK], _NO_TOKEN, tl.int32)
    for start in range(0, vocab_size, BLOCK):
        token = start + tl.arange(0, BLOCK)
        scaled = _scaled(row, token, vocab_size, temperature)
        is_left = (scaled >= low) & (scaled > last)
        if tl.max(is_left.to(tl.int32), axis=0) > 0:  # noise is most of the work
            noisy = scaled + _noise(seed, choice, position, start, BLOCK)
            is_better = is_left & (noisy > sums)
            sums = tl.where(is_better, noisy, sums)
            tokens = tl.where(is_better, token, tokens)
    _, token = _best_of(sums, tokens)
    return token


@triton.jit(do_not_specialize=["num_parts"])
def _choose_kernel(
    logits,
    temperatures,
    top_k,
    top_p,
    min_p,
    seeds,
    choices,
    positions,
    part_sums,
    part_tokens,
    part_logits,
    output,
    vocab_size,
    logits_stride,
    num_parts,
    PART_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PART_BLOCK)
    place, is_part = index * num_parts + part, part < num_parts
    sums = tl.load(part_sums + place, mask=is_part, other=-float("inf"))
    tokens = tl.load(part_tokens + place, mask=is_part, other=_NO_TOKEN)
    largest = tl.load(part_logits + place, mask=is_part, other=-float("inf"))
    _, best = _best_of(sums, tokens)
    temperature = tl.load(temperatures + index)
    k, p, least = tl.load(top_k + index), tl.load(top_p + index), tl.load(min_p + index)
    has_k = (k > 0) & (k < vocab_size)
    if (temperature >= _GREEDY_BELOW) & (has_k | (p < 1.0) | (least > 0.0)):
        row = logits + index * logits_stride
        seed = tl.load(seeds + index)
        choice = tl.load(choices + index).to(tl.uint32)
        position = tl.load(positions + index).to(tl.uint32)
        highest = tl.max(largest, axis=0)
        low = tl.zeros([], tl.float32) - float("inf")
        if has_k:
            low = _kth_largest(row, vocab_size, temperature, k.to(tl.int32), BLOCK)
        limit = tl.zeros([], tl.float32) + float("inf")
        if p < 1.0:
            limit = p * _mass(row, vocab_size, temperature, highest, low, True, BLOCK)
        if least > 0.0:
            low = tl.maximum(low, highest + tl.log(least))
        stays = 0
        while stays == 0:
            candidate = tl.load(row + best)
            last = tl.div_rn(candidate, temperature)
            stays = ((last == highest) | (last >= low)).to(tl.int32)
            if (stays != 0) & (last < highest) & (p < 1.0):
                above = _mass(row, vocab_size, temperature, highest, last, False, BLOCK)
                stays = (above < limit).to(tl.int32)
            if stays == 0:
                best = _best_above(
                    row, vocab_size, temperature, low, last, seed, choice, position, BLOCK
                )
    tl.store(output + index, best.to(tl.int64))


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
) -> Tensor:
    """As kernels/reference/sample.py; never waits for the device. Rows of logits may be strided."""
    numbers = {"temperatures": temperatures, "top_p": top_p, "min_p": min_p}
    counts = {"top_k": top_k, "seeds": seeds, "choices": choices, "positions": positions}
    _check(logits, numbers, counts)
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, _PART_BLOCK)
    num_parts = max(1, min(_MAX_PARTS, num_blocks, _NUM_PROGRAMS // max(1, num_rows)))
    part_size = triton.cdiv(num_blocks, num_parts) * _PART_BLOCK
    shape = (num_rows, num_parts)
    part_sums = torch.empty(shape, dtype=torch.float32, device=logits.device)
    part_tokens = torch.empty(shape, dtype=torch.int32, device=logits.device)
    part_logits = torch.empty_like(part_sums)
    output = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        _sample_kernel[shape](
            logits,
            temperatures,
            seeds,
            choices,
            positions,
            part_sums,
            part_tokens,
            part_logits,
            vocab_size,
            logits.stride(0),
            part_size,
            num_parts,
            BLOCK=_PART_BLOCK,
            num_warps=4,
        )
        _choose_kernel[(num_rows,)](
            logits,
            temperatures,
            top_k,
            top_p,
            min_p,
            seeds,
            choices,
            positions,
            part_sums,
            part_tokens,
            part_logits,
            output,
            vocab_size,
            logits.stride(0),
            num_parts,
            PART_BLOCK=triton.next_power_of_2(num_parts),
            BLOCK=_ROW_BLOCK,
            num_warps=8,
        )
    return output


def _check(logits: Tensor, numbers: dict[str, Tensor], counts: dict[str, Tensor]) -> None:
    expect("dimensions of logits", logits.dim(), 2)
    expect("dtype of logits", logits.dtype, torch.float32)
    expect_rows("logits", logits)
    if not logits.shape[1]:
        raise ValueError("columns of logits: got 0, expected a token at least")
    for group, dtype in ((numbers, torch.float32), (counts, torch.int64)):
        for name, tensor in group.items():
            expect_shape(name, tensor, len(logits))
            expect_index(name, tensor, dtype, logits)
