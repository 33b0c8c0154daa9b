"""What `quantization_config` of config.json says: the methods there are, and their keys.

Torch-free. Which matrices are packed, and in what groups, the tensors themselves say; so the lists
of modules that are left out (`modules_to_not_convert`, `ignore`) need no reading: theirs are plain.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one method; `check` raises ValueError for what cannot be read."""

    module: ClassVar[str]  # of this package, which has `find_matrices`

    def check(self) -> None:
        """Raise ValueError, half a sentence, if this is a variant that cannot be read."""


class Gptq(Method, frozen=True, kw_only=True):
    """AutoGPTQ's and GPTQModel's."""

    module: ClassVar[str] = "gptq"

    bits: int
    group_size: int = 128  # -1: a row has one group
    checkpoint_format: str = ""
    format: str = ""
    pack_dtype: str = "int32"
    is_marlin_format: bool = False
    dynamic: dict[str, Any] | None = None  # by module: other bits, other groups

    @property
    def layout(self) -> str:
        """`gptq` keeps zeros less one, `gptq_v2` as they are."""
        return self.checkpoint_format or self.format or "gptq"

    def check(self) -> None:
        """Bits, and how they are packed."""
        _one_of("bits", self.bits, (2, 3, 4, 8))
        _one_of("checkpoint_format", self.layout, ("gptq", "gptq_v2"))
        _one_of("pack_dtype", self.pack_dtype, ("int32",))
        _one_of("is_marlin_format", self.is_marlin_format, (False,))
        _check_group_size(self.group_size)


class Awq(Method, frozen=True, kw_only=True):
    """AutoAWQ's."""

    module: ClassVar[str] = "awq"

    bits: int = 4
    group_size: int = 128
    version: str = ""
    format: str = ""

    def check(self) -> None:
        """Only the layout of its gemm kernels, which is what published models have."""
        _one_of("bits", self.bits, (4,))
        _one_of("version", (self.version or self.format or "gemm").lower(), ("gemm",))
        _check_group_size(self.group_size)


class Fp8(Method, frozen=True, kw_only=True):
    """DeepSeek's blocks with a scale, and vLLM's and FBGEMM's scales of rows or whole matrices."""

    module: ClassVar[str] = "fp8"

    weight_block_size: tuple[int, int] | None = None
    expert_dtype: str = "fp8"

    def check(self) -> None:
        """Experts may be in 4 bits elsewhere."""
        _one_of("expert_dtype", self.expert_dtype, ("fp8",))
        _check_block(self.weight_block_size)


class CompressedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """How the weights of a group of modules are quantised."""

    num_bits: int
    type: str = "int"
    group_size: int | None = None
    block_structure: tuple[int, int] | str | None = None

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of a block with one scale. Older files have `128x128`."""
        if isinstance(self.block_structure, str):
            sizes = self.block_structure.split("x")
            if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
                raise ValueError(f"block_structure is {self.block_structure}, not like 128x128")
            return int(sizes[0]), int(sizes[1])
        return self.block_structure


class CompressedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Modules that are quantised alike; which ones, the tensors say."""

    weights: CompressedWeights | None = None
    format: str | None = None


class Compressed(Method, frozen=True, kw_only=True):
    """The compressed-tensors package's, llm-compressor's output."""

    module: ClassVar[str] = "compressed_tensors"
    FORMATS: ClassVar[Collection[str]] = (
        *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
        *("mixed-precision", "dense"),
    )

    config_groups: dict[str, CompressedGroup] = {}
    format: str = "dense"
    sparsity_config: dict[str, Any] | None = None
    transform_config: dict[str, Any] | None = None

    @property
    def weights(self) -> list[CompressedWeights]:
        """Those of all groups."""
        return [group.weights for group in self.config_groups.values() if group.weights]

    def check(self) -> None:
        """Every group has to be in a form that `compressed_tensors.py` reads."""
        for form in (self.format, *(group.format for group in self.config_groups.values())):
            _one_of("format", form or "dense", self.FORMATS)
        for weights in self.weights:
            _one_of("type of weights", weights.type, ("int", "float"))
            bits = (8,) if weights.type == "float" else range(2, 9)
            _one_of("num_bits", weights.num_bits, bits)
            _check_block(weights.block)
        sparse = (self.sparsity_config or {}).get("format") or "dense"
        _one_of("format of sparsity_config", sparse, ("dense",))
        _one_of("transform_config", bool(self.transform_config), (False,))


class Tramontane(Method, frozen=True, kw_only=True):
    """What `tramontane quantize` writes: matrices in blocks of `type`, those of `others` in theirs.

    Both are names of engine/quant.
    """

    module: ClassVar[str] = "tramontane"

    type: str
    others: dict[str, str] = {}
    version: int = 1

    def check(self) -> None:
        """A later version may mean something else."""
        _one_of("version", self.version, (1,))


METHODS: dict[str, type[Method]] = {
    "awq": Awq,
    "compressed-tensors": Compressed,
    "fbgemm_fp8": Fp8,
    "fp8": Fp8,
    "gptq": Gptq,
    "tramontane": Tramontane,
}


class _Place(msgspec.Struct):
    quantization_config: dict[str, Any] | None = None
    compression_config: dict[str, Any] | None = None  # compressed-tensors' of before 2024
    text_config: dict[str, Any] | None = None  # of a model with an image encoder


def read_method(directory: Path) -> Method | None:
    """How the weights of a checkpoint are quantised, None if they are not.

    Raises LoadError for a method that is not known, or a variant of it that cannot be read.
    """
    path = directory / "config.json"
    place = read_json(path, _Place)
    inner = (place.text_config or {}).get("quantization_config")
    keys = place.quantization_config or place.compression_config or inner
    return None if keys is None else _convert(keys, path)


def _convert(keys: dict[str, Any], path: Path) -> Method:
    name = keys.get("quant_method", "unknown")
    if not isinstance(name, str) or name not in METHODS:
        raise LoadError(
            f"{path}: weights quantised with {name} are not supported, only {', '.join(METHODS)}; "
            "use the model's unquantised weights or a GGUF file."
        )
    try:
        method = msgspec.convert(keys, METHODS[name])
        method.check()
    except ValueError as error:  # msgspec's is one
        raise LoadError(
            f"{path}: this quantization_config of {name} is not supported ({error}); use the "
            "model's unquantised weights or a GGUF file."
        ) from error
    return method


def _one_of(key: str, value: object, known: Collection[object]) -> None:
    if value not in known:
        raise ValueError(f"{key} is {value}, not {' or '.join(map(str, known))}")


def _check_group_size(size: int) -> None:
    if size != -1 and size <= 0:
        raise ValueError(f"group_size is {size}, neither -1 nor above 0")


def _check_block(block: tuple[int, int] | None) -> None:
    if block is not None and min(block) <= 0:
        raise ValueError(f"a block of {block[0]} x {block[1]} weights holds none")
