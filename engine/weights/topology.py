"""A topology: which layers or weights of a model get a type of their own. Knows YAML and names.

Torch-free. The files are mistral.rs': `0-8` are the layers 0 to 7, `12` is one layer, `/regex/` is
searched for in the names of weights, as Hugging Face has them. A regex goes before layers, and a
later regex before an earlier one. Source: mistral.rs, docs/TOPOLOGY.md.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml

from engine.errors import InvalidInput, LoadError
from engine.quant.names import isq_name

_LAYERS = re.compile(r"(?P<first>\d{1,6})(-(?P<end>\d{1,6}))?")
_LAYER_OF = re.compile(r"model\.layers\.(\d+)\.")
_DEVICE = re.compile(r"cpu|cuda(\[(?P<index>\d{1,3})\])?")


class Choice(NamedTuple):
    """What an entry asks for: a type of `names.ISQ_NAMES` and a device, as torch spells it."""

    isq: str | None = None
    device: str | None = None


class Topology(NamedTuple):
    """`layers` do not overlap; `patterns` are in the order of the file."""

    path: str = ""
    layers: tuple[tuple[range, Choice], ...] = ()
    patterns: tuple[tuple[re.Pattern[str], Choice], ...] = ()

    def isq(self, name: str) -> str | None:
        """The type that the weight `name` is to have, if an entry says so."""
        for pattern, choice in reversed(self.patterns):
            if choice.isq and pattern.search(name):
                return choice.isq
        match = _LAYER_OF.match(name)
        found = (choice.isq for layers, choice in self.layers if match and int(match[1]) in layers)
        return next(found, None)

    def types(self) -> frozenset[str]:
        """Every type that an entry names."""
        return frozenset(choice.isq for choice in self._choices() if choice.isq)

    def check_device(self, device: str) -> None:
        """Raise LoadError if an entry names another device than the model's only one."""
        for choice in self._choices():
            if choice.device is not None and _numbered(choice.device) != _numbered(device):
                raise LoadError(
                    f"{self.path} puts layers on {choice.device}, but a model is on one device "
                    f"here, which is {device}; leave `device` out of it, or start with --device "
                    f"{choice.device}."
                )

    def check_fit(self, num_layers: int, names: Iterable[str]) -> None:
        """Raise LoadError for an entry that no layer or weight of a model is meant by."""
        for layers, _ in self.layers:
            if layers.stop > num_layers:
                raise LoadError(
                    f"{self.path} speaks of layer {layers.stop - 1}, but the model has "
                    f"{num_layers}, from 0 to {num_layers - 1}."
                )
        names = tuple(names)
        for pattern, _ in self.patterns:
            if not any(map(pattern.search, names)):
                raise LoadError(
                    f"{self.path}: no weight of the model that can be quantised has a name that "
                    f"fits /{pattern.pattern}/; one is {min(names, default='not there')}."
                )

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(choice for _, choice in (*self.layers, *self.patterns))


def read_topology(path: str) -> Topology:
    """Read a topology file. Raises LoadError, naming the entry, for one that makes no sense."""
    layers: list[tuple[range, Choice]] = []
    patterns: list[tuple[re.Pattern[str], Choice]] = []
    for key, value in _entries(path):
        choice = _choice(value, f"{path}: the entry {key}")
        if len(key) > 1 and key[0] == key[-1] == "/":
            patterns.append((_pattern(key[1:-1], path), choice))
        else:
            layers.append((_layers(key, path), choice))
    _check_apart([span for span, _ in layers], path)
    return Topology(path, tuple(layers), tuple(patterns))


def _entries(path: str) -> list[tuple[str, yaml.Node]]:
    try:
        text = Path(path).expanduser().read_text("utf-8")
        # Nodes, not values: of two keys alike, a value has the last without a word.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise LoadError(f"the topology {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise LoadError(f"the topology {path} is no YAML: {reason}.") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise LoadError(
            f"{path} is no topology: it must be a mapping of layers (`0-8`, `12`) or weights "
            "(`/regex/`) to `{isq: TYPE}`."
        )
    return _pairs(root, path)


def _pairs(node: yaml.MappingNode, where: str) -> list[tuple[str, yaml.Node]]:
    """Keys, each there once, and values."""
    pairs = [(str(key.value), value) for key, value in node.value]
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise LoadError(f"{where} has {twice[0]} twice.")
    return pairs


def _choice(node: yaml.Node, where: str) -> Choice:
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise LoadError(f"{where} must be a mapping with `isq`, `device` or both.")
    values: dict[str, str] = {}
    for key, value in _pairs(node, where):
        if key not in Choice._fields:
            raise LoadError(f"{where} has {key!r}, which is neither `isq` nor `device`.")
        if not isinstance(value, yaml.ScalarNode):
            raise LoadError(f"{where} has a {key} that is no single word.")
        values[key] = value.value
    return Choice(_isq(values.get("isq"), where), _device(values.get("device"), where))


def _isq(name: str | None, where: str) -> str | None:
    try:
        return None if name is None else isq_name(name)
    except InvalidInput as error:
        raise LoadError(f"{where}: {error}") from error


def _device(name: str | None, where: str) -> str | None:
    if name is None:
        return None
    match = _DEVICE.fullmatch(name)
    if match is None:
        raise LoadError(f"{where} names the device {name!r}; it must be `cpu` or `cuda[N]`.")
    return f"cuda:{match['index'] or 0}" if name.startswith("cuda") else "cpu"


def _numbered(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


def _layers(key: str, path: str) -> range:
    match = _LAYERS.fullmatch(key)
    if match is None:
        raise LoadError(
            f"{path}: the entry {key} is neither a layer (`12`), layers (`0-8`, which are 0 to 7) "
            "nor a regex (`'/self_attn/'`)."
        )
    first = int(match["first"])
    end = first + 1 if match["end"] is None else int(match["end"])
    if end <= first:
        raise LoadError(f"{path}: the entry {key} has no layers: its end must be above its start.")
    return range(first, end)


def _pattern(text: str, path: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise LoadError(f"{path}: /{text}/ is no regular expression: {error}.") from error


def _check_apart(spans: list[range], path: str) -> None:
    ordered = sorted(spans, key=lambda span: span.start)
    for one, other in pairwise(ordered):
        if other.start < one.stop:
            raise LoadError(f"{path} has layer {other.start} in two entries; give it one.")
