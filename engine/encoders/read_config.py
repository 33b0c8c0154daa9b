"""The shape of an encoder from its config.json. Torch-free."""

from pathlib import Path
from typing import Any

import msgspec

from engine.encoders.config import EncoderConfig
from engine.encoders.families import ENCODERS
from engine.encoders.keys import DistilBertKeys, EncoderKeys, MPNetKeys, RobertaKeys
from engine.encoders.rotary_keys import GteKeys, ModernBertKeys, NomicBertKeys
from engine.errors import LoadError
from engine.json_file import read_json
from engine.weights.files import ModelFiles
from engine.weights.hf_keys import ACTIVATIONS
from engine.weights.safetensors_header import stored_dtype

_KEYS: dict[str, type[EncoderKeys]] = {
    "Bert": EncoderKeys,
    "Camembert": RobertaKeys,
    "DistilBert": DistilBertKeys,
    "Gte": GteKeys,
    "MPNet": MPNetKeys,
    "ModernBert": ModernBertKeys,
    "New": GteKeys,
    "NomicBert": NomicBertKeys,
    "Roberta": RobertaKeys,
    "XLMRoberta": RobertaKeys,
}


def read_encoder_config(files: ModelFiles, architecture: str) -> EncoderConfig:
    """Read config.json of an architecture of `ENCODERS`.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    path = files.directory / "config.json"
    keys = _read_keys(path, _KEYS[ENCODERS[architecture]])
    if (activation := keys.activation_name()) not in ACTIVATIONS:
        raise LoadError(
            f"{path}: the activation {activation!r} is not supported; supported are "
            f"{', '.join(ACTIVATIONS)}."
        )
    fields = _fields(keys, path)
    return EncoderConfig(
        architecture=architecture,
        vocab_size=keys.vocab_size,
        hidden_size=keys.hidden_size,
        intermediate_size=keys.intermediate_size,
        num_layers=keys.num_hidden_layers,
        num_heads=keys.num_attention_heads,
        num_kv_heads=keys.num_attention_heads,
        head_dim=_head_dim(keys, path),
        norm="layer",
        activation=ACTIVATIONS[activation],
        dtype=stored_dtype(files.weights, is_quantised=False),
        **fields,
    )


def _read_keys(path: Path, kind: type[EncoderKeys]) -> EncoderKeys:
    stored = read_json(path, dict[str, Any])
    values = {kind.names.get(key, key): value for key, value in stored.items()}
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise LoadError(f"{path} cannot be used: {error}. Download it again.") from error


def _fields(keys: EncoderKeys, path: Path) -> dict[str, Any]:
    try:
        return keys.fields()
    except LoadError as error:
        raise LoadError(f"{path}: {error}.") from error


def _head_dim(keys: EncoderKeys, path: Path) -> int:
    size, rest = divmod(keys.hidden_size, keys.num_attention_heads)
    if rest or size % 2:
        raise LoadError(
            f"{path}: hidden_size {keys.hidden_size} is no even multiple of num_attention_heads "
            f"{keys.num_attention_heads}."
        )
    return size
