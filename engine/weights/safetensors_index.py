"""Which shard of a safetensors checkpoint holds which tensor. Torch-free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json
from engine.weights.safetensors_header import SafetensorsHeader, read_header
from engine.weights.selection import INDEX_FILE


class _Index(msgspec.Struct):
    weight_map: Annotated[dict[str, str], msgspec.Meta(min_length=1)]


def read_index(directory: Path) -> dict[str, str] | None:
    """The shard of each tensor by the index, None without one.

    Raises LoadError for a damaged index and for one that names files outside of `directory`.
    """
    path = directory / INDEX_FILE
    if not path.is_file():
        return None
    shards = read_json(path, _Index).weight_map
    for file in set(shards.values()):
        if ".." in Path(file).parts or Path(file).is_absolute():
            raise LoadError(f"{path} names {file}, outside of its directory.")
    return shards


def read_shards(
    directory: Path, paths: Sequence[Path]
) -> tuple[dict[Path, SafetensorsHeader], dict[str, Path]]:
    """The headers of all shards, and the file of each tensor.

    Raises LoadError if a shard does not hold what the index says, or if two hold one tensor and
    there is no index to say whose it is.
    """
    headers = {path: read_header(path) for path in paths}
    listed = _listed(read_index(directory) or {}, directory, headers)
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
    shards: Mapping[str, str], directory: Path, headers: Mapping[Path, SafetensorsHeader]
) -> dict[str, Path]:
    places = {}
    for name, file in shards.items():
        header = headers.get(directory / file)
        if header is None or name not in header.tensors:
            raise LoadError(
                f"{directory / INDEX_FILE} says that {name} is in {file}, and it is not; download "
                "the model again."
            )
        places[name] = directory / file
    return places
