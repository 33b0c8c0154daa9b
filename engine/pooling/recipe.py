"""How vectors are made of a model's states, as sentence-transformers' files say. Torch-free."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.weights.files import ModelFiles
from engine.weights.task import MODULES_FILE, Module, gguf_pooling, read_modules

log = logging.getLogger(__name__)

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"]
Scale = Literal["identity", "sigmoid", "tanh", "relu", "gelu", "softmax"]

# The switches of a Pooling module in the order in which their vectors are joined.
_SWITCHES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_SCALES: dict[str, Scale] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Softmax": "softmax",
}


class DenseModule(msgspec.Struct, frozen=True, kw_only=True):
    """A layer `activation(weight @ x + bias)` whose weights lie in a folder of the model's."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: Scale


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A vector: the poolings of a text's states, joined; dense layers; length 1 if normalised."""

    poolings: tuple[Pooling, ...]
    dense: tuple[DenseModule, ...] = ()
    is_normalised: bool = True


class _Dense(msgspec.Struct):
    in_features: Annotated[int, msgspec.Meta(gt=0)]
    out_features: Annotated[int, msgspec.Meta(gt=0)]
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"


# sentence-transformers has called the same file by these names
_LENGTH_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)


class _Lengths(msgspec.Struct):
    max_seq_length: Annotated[int, msgspec.Meta(gt=0)] | None = None


def read_recipe(files: ModelFiles, default: Pooling) -> Recipe:
    """What modules.json and the folders that it names say, or a GGUF file's `pooling_type`.

    Without either it is `default`; that and a GGUF file's are normalised, as vLLM and llama.cpp do.
    Raises LoadError for a module that is not supported.
    """
    modules = read_modules(files)
    if (pooled := gguf_pooling(files)) is not None:
        return Recipe(poolings=(pooled,))
    if not modules:
        log.info("no %s: vectors are the %s states, normalised", MODULES_FILE, default)
        return Recipe(poolings=(default,))
    path = files.directory / MODULES_FILE
    _check_kinds(path, modules)
    _check_order(path, [module.kind for module in modules])
    by_kind = {module.kind: module for module in modules}
    pooling = by_kind.get("Pooling")
    return Recipe(
        poolings=_read_poolings(files.directory / pooling.path) if pooling else (default,),
        dense=tuple(
            _read_dense(files.directory, module.path)
            for module in modules
            if module.kind == "Dense"
        ),
        is_normalised="Normalize" in by_kind,
    )


def read_max_length(directory: Path) -> int | None:
    """The longest text in tokens by sentence_bert_config.json, None if it does not say."""
    for name in _LENGTH_FILES:
        if (lengths := read_json_if_there(directory / name, _Lengths)) is not None:
            return lengths.max_seq_length
    return None


def parse_scale(name: str, path: Path) -> Scale:
    """An activation by the name of its class in torch. Raises LoadError for others."""
    kind = name.rpartition(".")[2].removesuffix("()")
    if not name.startswith("torch.nn.") or kind not in _SCALES:
        raise LoadError(
            f"{path}: the activation {name} is not supported; supported are "
            f"{', '.join(_SCALES)} of torch.nn."
        )
    return _SCALES[kind]


def _read_dense(directory: Path, folder: str) -> DenseModule:
    path = directory / folder / "config.json"
    config = read_json(path, _Dense)
    if not (path.parent / "model.safetensors").is_file():
        raise LoadError(
            f"{path.parent} has no model.safetensors; a pickle (.bin) can run code when it is "
            "read, so save that module in safetensors format."
        )
    return DenseModule(
        folder=folder,
        in_features=config.in_features,
        out_features=config.out_features,
        bias=config.bias,
        activation=parse_scale(config.activation_function, path),
    )


def _check_kinds(path: Path, modules: Sequence[Module]) -> None:
    known = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
    for module in modules:
        if not module.type.startswith("sentence_transformers.") or module.kind not in known:
            raise LoadError(
                f"{path} has a module {module.type}, which is not supported; supported are "
                f"{', '.join(known)} of sentence_transformers."
            )
    if modules[0].kind != "Transformer" or Path(modules[0].path) != Path():
        raise LoadError(f"{path} must begin with a Transformer at the top of the directory.")


def _check_order(path: Path, kinds: Sequence[str]) -> None:
    """Modules are applied in one order here; another one would make other vectors."""
    order = ["Transformer", "Pooling", "Dense", "Normalize"]
    ranks = [order.index(kind) for kind in kinds if kind in order]
    if ranks != sorted(ranks) or any(kinds.count(order[i]) > 1 for i in (0, 1)):
        raise LoadError(
            f"{path} has the modules {', '.join(kinds)}; supported are Transformer, Pooling, "
            "Dense and Normalize in this order."
        )


def _read_poolings(directory: Path) -> tuple[Pooling, ...]:
    path = directory / "config.json"
    config = read_json(path, dict[str, Any])
    mode = config.get("pooling_mode")  # the newer form
    chosen: Any = [mode] if isinstance(mode, str) else mode
    if chosen is None:
        known = [name for switch, name in _SWITCHES.items() if config.get(switch)]
        strange = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
        chosen = known + [key for key in strange if key not in _SWITCHES]
    try:
        poolings = msgspec.convert(chosen, tuple[Pooling, ...])
    except msgspec.ValidationError as error:
        raise LoadError(f"{path} asks for a pooling that is not supported: {chosen}.") from error
    if not poolings:
        raise LoadError(f"{path} names no pooling; set one of {', '.join(_SWITCHES)}.")
    return poolings
