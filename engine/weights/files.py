"""Finds a model's files: a directory, a Hub repository or the built-in model. Reads no weights.

Torch-free.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json
from engine.weights import hub
from engine.weights.progress import Progress

BUILTIN = "builtin"
BUILTIN_NAME = "tramontane-tiny"
_INDEX_FILE = "model.safetensors.index.json"
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf")


Kind = Literal["plain", "gguf", "ggml"]


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for.

    `model` is a directory, a GGUF file, `org/name[@revision]`, or `builtin`. `file` names GGUF
    files in it, several splits apart by `;`. `token_source` is `literal:TOKEN`, `env:VARIABLE`,
    `path:FILE`, `cache` or `none`. `tokenizer` is a directory, a tokenizer.json or a repository to
    take in the place of the weights' own; `gqa` is what a GGML file does not say: query heads per
    key-value head.
    """

    model: str
    kind: Literal["auto"] | Kind = "auto"
    file: str | None = None
    revision: str | None = None
    token_source: str = "cache"
    tokenizer: str | None = None
    gqa: int = 1


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk. `name` is what it is served as; `weights` are its files of tensors.

    `tokenizer` is the directory of a tokenizer to take in the place of the weights' own.
    """

    kind: Kind
    name: str
    directory: Path
    weights: tuple[Path, ...]
    tokenizer: Path | None = None
    gqa: int = 1


def resolve(
    ref: ModelRef, progress: Progress | None = None, environ: Mapping[str, str] | None = None
) -> ModelFiles:
    """Find the files of `ref`, downloading those of a Hub repository that are not in its cache.

    `progress(done_bytes, total_bytes)` follows the download; a token source `env:` looks in
    `environ`. Raises LoadError: one sentence that says what to do.
    """
    if ref.model == BUILTIN:
        builtin = Path(__file__).parent.parent / "builtin"
        return _in_directory(msgspec.structs.replace(ref, kind="plain"), builtin, BUILTIN_NAME)
    path = Path(ref.model).expanduser()
    try:
        if path.is_dir():
            return _in_directory(ref, path)
        if path.is_file():
            return _single_file(ref, path)
    except PermissionError as error:  # of a directory; that of a file is seen when it is opened
        raise LoadError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return _in_repo(ref, progress, environ or {})


def _single_file(ref: ModelRef, path: Path) -> ModelFiles:
    if path.suffix != ".gguf" or ref.file is not None or ref.kind == "plain":
        raise LoadError(
            f"{path} is a file; give the model's directory, or a .gguf file and nothing else."
        )
    gguf = msgspec.structs.replace(ref, kind="gguf", file=path.name)
    return _in_directory(gguf, path.parent)


def _in_repo(ref: ModelRef, progress: Progress | None, environ: Mapping[str, str]) -> ModelFiles:
    repo = hub.parse_repo(ref.model, ref.revision)
    token = hub.read_token(ref.token_source, environ)
    names = _gguf_names(ref.file) if ref.file is not None else None
    is_gguf = ref.kind == "gguf" or (ref.kind == "auto" and names is not None)
    if is_gguf and names is None:
        raise LoadError(
            f"{repo.id} is asked for as GGUF without a file name; say which file with -f FILE.gguf."
        )
    directory = hub.fetch(repo, token, names if is_gguf else None, progress)
    return _in_directory(ref, directory, repo.id)


def _in_directory(ref: ModelRef, directory: Path, name: str = "") -> ModelFiles:
    """The model there. Without a name it has that of its GGUF file, or else of the directory."""
    kind = ref.kind if ref.kind != "auto" else _guess_kind(ref, directory)
    weights = _plain_weights(directory) if kind == "plain" else _gguf_weights(ref.file, directory)
    own_name = _gguf_stem(weights[0].name) if kind == "gguf" else directory.resolve().name
    return ModelFiles(kind=kind, name=name or own_name, directory=directory, weights=weights)


def _gguf_stem(file: str) -> str:
    """A file's name without its ending and its place among the splits."""
    split = _SPLIT.fullmatch(file)
    return split["stem"] if split else file.removesuffix(".gguf")


def _guess_kind(ref: ModelRef, directory: Path) -> Kind:
    if ref.file is not None:
        return "gguf"
    if (directory / "config.json").is_file():
        return "plain"
    return "gguf" if any(directory.glob("*.gguf")) else "plain"


def _plain_weights(directory: Path) -> tuple[Path, ...]:
    if not (directory / "config.json").is_file():
        raise LoadError(f"{directory} has no config.json; give the directory of a model.")
    if (directory / _INDEX_FILE).is_file():
        return _sharded(directory)
    if (directory / "model.safetensors").is_file():
        return (directory / "model.safetensors",)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pth")):
        raise LoadError(
            f"{directory} has its weights in pickle files (.bin, .pth), which can run code when "
            "they are read; use a version of the model in safetensors format."
        )
    raise LoadError(f"{directory} has no model.safetensors and no {_INDEX_FILE}.")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _sharded(directory: Path) -> tuple[Path, ...]:
    index = read_json(directory / _INDEX_FILE, _Index)
    shards = tuple(directory / name for name in sorted(set(index.weight_map.values())))
    _check_present(shards)
    return shards


def _gguf_weights(file: str | None, directory: Path) -> tuple[Path, ...]:
    names = _gguf_names(file) if file is not None else _only_gguf(directory)
    paths = tuple(directory / name for name in names)
    _check_present(paths)
    return paths


def _only_gguf(directory: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in directory.glob("*.gguf"))
    models = {_gguf_names(name) for name in names}
    if len(models) != 1:
        raise LoadError(f"{directory} has {_listed(names)}; say which GGUF file with -f FILE.gguf.")
    return models.pop()


def _gguf_names(file: str) -> tuple[str, ...]:
    """The files that `-f` means: those it lists, or all splits of the one it names."""
    names = tuple(name.strip() for name in file.split(";") if name.strip())
    if not names:
        raise LoadError(f"{file!r} names no GGUF file; say which one with -f FILE.gguf.")
    if len(names) == 1 and (split := _SPLIT.fullmatch(names[0])):
        count = int(split["count"])
        return tuple(f"{split['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1))
    return names


def _check_present(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            others = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))
            raise LoadError(f"{path} does not exist; {path.parent} has {_listed(others)}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "no such files"
