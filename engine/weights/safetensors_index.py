"""Which shard of a safetensors checkpoint holds which tensor. Torch-free."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json_if_there
from engine.weights.safetensors_header import SafetensorsHeader, read_header

INDEX_FILE = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_shards(
    directory: Path, paths: Sequence[Path]
) -> tuple[dict[Path, SafetensorsHeader], dict[str, Path]]:
    """The headers of all shards, and the file of each tensor.

    Raises LoadError if a shard does not hold what the index says, or if two hold one tensor and
    there is no index to say whose it is.
    """
    headers = {path: read_header(path) for path in paths}
    index = read_json_if_there(directory / INDEX_FILE, _Index)
    listed = {} if index is None else _listed(index, directory, headers)
    places = dict(listed)
    for path, header in headers.items():
        for name in header.tensors.keys() - listed.keys():
            if name in places:
                raise LoadError(
                    f"{path.name} and {places[name].name} in {directory} both have a tensor "
                    f"{name}; they are no shards of one model."
                )
            places[name] = path
    return headers, places


def _listed(
    index: _Index, directory: Path, headers: dict[Path, SafetensorsHeader]
) -> dict[str, Path]:
    places = {}
    for name, file in index.weight_map.items():
        if ".." in Path(file).parts or Path(file).is_absolute():
            raise LoadError(f"{directory / INDEX_FILE} names {file}, outside of its directory.")
        header = headers.get(directory / file)
        if header is None or name not in header.tensors:
            raise LoadError(
                f"{directory / INDEX_FILE} says that {name} is in {file}, and it is not; download "
                "the model again."
            )
        places[name] = directory / file
    return places
