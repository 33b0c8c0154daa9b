"""Probes of products: torch's in bfloat16, packed weights of every kind, experts."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from kernels.grouped_linear import grouped_linear
from kernels.packed import PackedMatrix
from kernels.packed_grouped_linear import packed_grouped_linear
from kernels.packed_linear import packed_linear
from kernels.packed_rows import packed_rows
from kernels.planes.packing import pack_planes
from tests.bench.on_gpu.probe import ROUNDED, ROUNDED_TWICE, Probe, judged, num_bytes
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Case, Setting
from tests.kernels.packed_blocks import KINDS, name_of, random_matrix, unpacked

COMMON = (Type.Q4_K, Type.Q8_0, Type.Q6_K, Type.Q4_0)
OTHERS = tuple(kind for kind in KINDS if kind not in COMMON)
# On both sides of where tables change the kernel, and of where they unpack weights first.
INPUTS = (1, 2, 8, 16, 32, 128, 256, 384, 385, 512, 2048)
_CHECKED_ROWS = 128
_PIECE_ROWS = 1024


class Matrix(NamedTuple):
    """A packed matrix on the device, and some of its rows in float64."""

    packed: PackedMatrix
    some: list[int]
    weights: Tensor  # of those rows


def shapes(setting: Setting) -> dict[str, tuple[int, int]]:
    """Rows and columns of a layer's matrices, and of the output."""
    sizes = setting.sizes
    heads = sizes.num_heads + 2 * sizes.num_kv_heads
    return {
        "gate and up": (2 * sizes.inner, sizes.hidden),
        "down": (sizes.hidden, sizes.inner),
        "qkv": (heads * sizes.head_dim, sizes.hidden),
        "output": (sizes.vocab, sizes.hidden),
    }


def cases(setting: Setting) -> list[Case]:
    """Of the commonest kinds; what decides a decode step first."""
    names = list(shapes(setting))
    inputs = setting.of_scale(INPUTS, (1, 3))
    common = setting.of_scale(COMMON, COMMON[:1])
    return [
        *_packed_cases(setting, common, names[:1], inputs),
        *_packed_cases(setting, common, setting.of_scale(names[1:], []), inputs[:1]),
        Case("cuBLAS", partial(_plain, setting, inputs)),
        *_expert_cases(setting, common[:2]),
    ]


def seldom_cases(setting: Setting) -> list[Case]:
    """Of all other kinds, with one input and with some."""
    return _packed_cases(setting, setting.of_scale(OTHERS, ()), ["down"], (1, 8))


def _packed_cases(
    setting: Setting, kinds: Sequence[int], names: Sequence[str], inputs: Sequence[int]
) -> list[Case]:
    return [
        Case(f"{name_of(kind)}, {name}", partial(_packed, setting, kind, name, inputs))
        for kind in kinds
        for name in names
    ]


def _matrix(setting: Setting, kind: int, num_rows: int, num_columns: int) -> Matrix:
    rows = random_matrix(kind, num_rows, num_columns)
    pieces = rows.data.split(_PIECE_ROWS)
    packed = pack_planes(rows.kind, num_rows, num_columns, pieces, setting.device)
    some = list(range(0, num_rows, max(1, num_rows // _CHECKED_ROWS)))
    chosen = rows._replace(num_rows=len(some), data=rows.data[some])
    return Matrix(packed, some, unpacked(chosen).double().to(setting.device))


def _packed(setting: Setting, kind: int, name: str, inputs: Sequence[int]) -> Iterator[Row]:
    num_rows, num_columns = shapes(setting)[name]
    matrix = _matrix(setting, kind, num_rows, num_columns)
    label = f"{name_of(kind)}, {name} {num_rows} x {num_columns}"
    indices = torch.tensor(matrix.some[:32], device=setting.device)
    moved = matrix.packed.num_bytes * len(indices) // num_rows + 4 * len(indices) * num_columns
    yield judged(
        setting,
        f"{label}, rows of {len(indices)} tokens",
        Probe(
            packed_rows,
            (matrix.packed, indices),
            lambda: matrix.weights[: len(indices)],
            moved,
            bound=0.0,
        ),
    )
    for count in inputs:
        x = setting.normal(count, num_columns)
        yield judged(setting, f"{label}, {count} inputs", _product(matrix, x))


def _product(matrix: Matrix, x: Tensor) -> Probe:
    packed = matrix.packed
    return Probe(
        packed_linear,
        (x, [packed]),
        lambda: x.double() @ matrix.weights.T,
        num_bytes=num_bytes(packed, x) + 2 * len(x) * packed.num_rows,
        num_operations=2 * len(x) * packed.num_rows * packed.num_columns,
        picked=partial(_columns, matrix.some),
        bound=ROUNDED if len(x) <= 16 else ROUNDED_TWICE,
    )


def _plain(setting: Setting, inputs: Sequence[int]) -> Iterator[Row]:
    """What bfloat16 weights are multiplied by; torch's own."""
    for name, (num_rows, num_columns) in shapes(setting).items():
        weight = setting.normal(num_rows, num_columns) * 0.02
        some = list(range(0, num_rows, max(1, num_rows // _CHECKED_ROWS)))
        for count in inputs if name == "gate and up" else inputs[:1]:
            x = setting.normal(count, num_columns)
            probe = Probe(
                F.linear,
                (x, weight),
                partial(_few_rows, x, weight, some),
                num_bytes=num_bytes(x, weight) + 2 * count * num_rows,
                num_operations=2 * count * weight.numel(),
                picked=partial(_columns, some),
            )
            label = f"cuBLAS bfloat16, {name} {num_rows} x {num_columns}, {count} inputs"
            yield judged(setting, label, probe)


def _columns(some: list[int], output: Tensor) -> Tensor:
    return output[:, some]


def _few_rows(x: Tensor, weight: Tensor, some: list[int]) -> Tensor:
    return x.double() @ weight[some].double().T


class Experts(NamedTuple):
    """A layer's gate and up: how many there are, how many a token has, and their size."""

    num: int
    chosen: int
    rows: int
    columns: int


# Mixtral-8x7B's, Qwen3-30B-A3B's.
EXPERTS = {"8 choose 2": Experts(8, 2, 28672, 4096), "128 choose 8": Experts(128, 8, 1536, 2048)}
TINY_EXPERTS = {"4 choose 2": Experts(4, 2, 64, 256)}


def _expert_cases(setting: Setting, kinds: Sequence[int]) -> list[Case]:
    counts = setting.of_scale((1, 16, 512), (3,))
    found = []
    for name, experts in setting.of_scale(EXPERTS, TINY_EXPERTS).items():
        run = partial(_experts, setting, name, experts, counts)
        found.append(Case(f"experts, {name}", run))
        for kind in kinds:
            run = partial(_packed_experts, setting, name, experts, counts, kind)
            found.append(Case(f"experts, {name}, {name_of(kind)}", run))
    return found


def _sorted_rows(setting: Setting, experts: Experts, count: int) -> tuple[Tensor, Tensor, int]:
    """The rows of a step's tokens by expert, where each expert's begin, and how many have any."""
    scores = torch.rand(count, experts.num, device=setting.device)
    chosen = scores.topk(experts.chosen).indices.flatten().sort().values
    bounds = torch.arange(experts.num + 1, device=setting.device)
    starts = torch.searchsorted(chosen, bounds, out_int32=True)
    return setting.normal(len(chosen), experts.columns), starts, len(chosen.unique())


def _experts(setting: Setting, name: str, experts: Experts, counts: Sequence[int]) -> Iterator[Row]:
    weight = setting.normal(experts.num, experts.rows, experts.columns) * 0.02
    some = list(range(0, experts.rows, max(1, experts.rows // 32)))
    for count in counts:
        x, starts, num_used = _sorted_rows(setting, experts, count)
        used_bytes = num_bytes(weight) // experts.num * num_used
        probe = Probe(
            grouped_linear,
            (x, weight, starts),
            partial(_by_group, x, weight[:, some].double(), starts),
            num_bytes=used_bytes + num_bytes(x) + 2 * len(x) * experts.rows,
            num_operations=2 * len(x) * experts.rows * experts.columns,
            picked=partial(_columns, some),
        )
        yield judged(setting, f"experts bfloat16, {name}, {count} tokens", probe)


def _packed_experts(
    setting: Setting, name: str, experts: Experts, counts: Sequence[int], kind: int
) -> Iterator[Row]:
    num_rows = experts.num * experts.rows
    blocks = random_matrix(kind, num_rows, experts.columns)
    pieces = blocks.data.split(_PIECE_ROWS)
    packed = pack_planes(blocks.kind, num_rows, experts.columns, pieces, setting.device)
    some = list(range(0, experts.rows, max(1, experts.rows // 16)))
    chosen = blocks.data.view(experts.num, experts.rows, -1)[:, some].flatten(0, 1)
    weights = unpacked(blocks._replace(num_rows=len(chosen), data=chosen)).double()
    by_expert = weights.view(experts.num, len(some), -1).to(setting.device)
    for count in counts:
        x, starts, num_used = _sorted_rows(setting, experts, count)
        used_bytes = packed.num_bytes // experts.num * num_used
        probe = Probe(
            packed_grouped_linear,
            (x, packed, starts),
            partial(_by_group, x, by_expert, starts),
            num_bytes=used_bytes + num_bytes(x) + 2 * len(x) * experts.rows,
            num_operations=2 * len(x) * experts.rows * experts.columns,
            picked=partial(_columns, some),
            bound=ROUNDED_TWICE,
        )
        yield judged(setting, f"experts {name_of(kind)}, {name}, {count} tokens", probe)


def _by_group(x: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """Each group of rows by its own of `weights` [E, some, I], which are float64."""
    sizes = starts.diff().tolist()
    rows = x.double().split(sizes)
    return torch.cat([group @ weight.T for group, weight in zip(rows, weights, strict=True)])
