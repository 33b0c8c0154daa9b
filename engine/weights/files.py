"""Finds a model's files: a directory, a Hub repository or the built-in model. Reads no weights.

Torch-free.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from os.path import expanduser
from pathlib import Path
from typing import Literal

import msgspec

from engine.errors import LoadError
from engine.weights import hub
from engine.weights.architecture import check_asked
from engine.weights.file_choice import stem_of
from engine.weights.ggml_magic import check_ggml
from engine.weights.hub_token import check_source, read_token
from engine.weights.progress import Progress
from engine.weights.safetensors_index import read_index
from engine.weights.selection import VOCABULARIES, Kind, select, select_tokenizer

BUILTIN = "builtin"
BUILTIN_NAME = "tramontane-tiny"
_PACKED = (".gguf", ".bin")
_FOLDERS = ("*/*", "*/*/*")  # how deep a directory is looked through


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for.

    `model` is a directory, a GGUF or GGML file, `org/name[@revision]`, or `builtin`. `file` says
    which packed files in it, as `file_choice.choose` reads it. `token_source` is `literal:TOKEN`,
    `env:VARIABLE`, `path:FILE`, `cache` or `none`. `tokenizer` is a directory, a tokenizer.json or
    a repository to take in the place of the weights' own; `gqa` is what a GGML file does not say:
    query heads per key-value head. `arch` is the family that config.json has to name.
    """

    model: str
    kind: Literal["auto"] | Kind = "auto"
    file: str | None = None
    revision: str | None = None
    token_source: str = "cache"
    tokenizer: str | None = None
    gqa: int = 1
    arch: str | None = None


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
    check_source(ref.token_source)
    environ = environ or {}
    files = _find(ref, progress, environ)
    _check_asked(ref, files)
    tokenizer = None if ref.tokenizer is None else _find_tokenizer(ref, environ)
    return msgspec.structs.replace(files, tokenizer=tokenizer, gqa=ref.gqa)


def _check_asked(ref: ModelRef, files: ModelFiles) -> None:
    """Nothing that is asked for is ignored in silence."""
    if ref.gqa != 1 and files.kind != "ggml":
        raise LoadError(f"{files.name} says itself how its heads are grouped; leave --gqa out.")
    if ref.arch is not None and files.kind != "plain":
        raise LoadError(
            f"--arch is checked with config.json, which {files.kind} has not; leave it out."
        )
    if ref.arch is not None:
        check_asked(ref.arch, files.directory)


def _find(ref: ModelRef, progress: Progress | None, environ: Mapping[str, str]) -> ModelFiles:
    if ref.model == BUILTIN:
        builtin = Path(__file__).parent.parent / "builtin"
        return _in_directory(msgspec.structs.replace(ref, kind="plain"), builtin, BUILTIN_NAME)
    path = Path(expanduser(ref.model))  # Path's own raises for a user that is not known
    with _readable():
        if path.is_dir():
            return _in_directory(ref, path)
        if path.is_file():
            return _single_file(ref, path)
    return _in_repo(ref, progress, environ)


@contextmanager
def _readable() -> Iterator[None]:
    """A directory may be closed, a name too long; that of a file is seen when it is opened."""
    try:
        yield
    except OSError as error:
        raise LoadError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _single_file(ref: ModelRef, path: Path) -> ModelFiles:
    if path.suffix not in _PACKED or ref.file is not None or ref.kind == "plain":
        raise LoadError(
            f"{path} is a file; give the model's directory, or a .gguf or GGML file and nothing "
            "else."
        )
    return _in_directory(msgspec.structs.replace(ref, file=path.name), path.parent)


def _in_directory(ref: ModelRef, directory: Path, name: str = "") -> ModelFiles:
    names = _names_in(directory) | _named_in(directory, ref.file)
    return _take(ref, names, directory, str(directory), name)


def _names_in(directory: Path) -> set[str]:
    paths = chain(directory.iterdir(), *map(directory.glob, _FOLDERS))
    return {path.relative_to(directory).as_posix() for path in paths}


def _named_in(directory: Path, file: str | None) -> set[str]:
    """What is named may lie deeper."""
    parts = [part.strip() for part in (file or "").split(";")]
    return {part for part in parts if part and (directory / part).is_file()}


def _in_repo(ref: ModelRef, progress: Progress | None, environ: Mapping[str, str]) -> ModelFiles:
    repo = hub.parse_repo(ref.model, ref.revision)
    listing = hub.list_files(repo, read_token(ref.token_source, environ))
    with _reason_of(listing):
        needed = select(ref.kind, ref.file, listing.sizes, repo.id).needed
        directory = hub.download(listing, needed, progress)
        return _take(ref, set(listing.sizes), directory, repo.id, repo.id)


@contextmanager
def _reason_of(listing: hub.Listing) -> Iterator[None]:
    """What the cache lacks the Hub may have: then the reason is that it gave no answer."""
    try:
        yield
    except LoadError as error:
        if listing.reason:
            raise LoadError(listing.reason) from error
        raise


def _take(
    ref: ModelRef, names: set[str], directory: Path, where: str, served_as: str
) -> ModelFiles:
    """The model there. Without a name it has that of its packed file, or else of the directory."""
    chosen = select(ref.kind, ref.file, names, where)
    if chosen.kind == "plain":
        weights, own_name = _plain_weights(directory), directory.resolve().name
    else:
        weights = tuple(directory / name for name in chosen.weights)
        own_name = stem_of(chosen.weights[0])
    _check_present(weights)
    if chosen.kind == "ggml":
        check_ggml(weights)
    return ModelFiles(
        kind=chosen.kind, name=served_as or own_name, directory=directory, weights=weights
    )


def _plain_weights(directory: Path) -> tuple[Path, ...]:
    shards = read_index(directory)
    if shards is None:
        return (directory / "model.safetensors",)
    return tuple(directory / name for name in sorted(set(shards.values())))


def _check_present(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            others = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))
            has = ", ".join(others) or "no such files"
            raise LoadError(f"{path} does not exist; {path.parent} has {has}.")


def _find_tokenizer(ref: ModelRef, environ: Mapping[str, str]) -> Path:
    """The directory of the tokenizer that `ref` names, fetched if it is a repository's."""
    assert ref.tokenizer is not None
    path = Path(expanduser(ref.tokenizer))
    with _readable():
        if path.is_dir():
            select_tokenizer([file.name for file in path.iterdir()], str(path))
            return path
        if path.is_file():
            return _directory_of(path)
    repo = hub.parse_repo(ref.tokenizer)
    listing = hub.list_files(repo, read_token(ref.token_source, environ))
    with _reason_of(listing):
        return hub.download(listing, select_tokenizer(listing.sizes, repo.id))


def _directory_of(path: Path) -> Path:
    if any(path.name in files for files in VOCABULARIES):
        return path.parent
    raise LoadError(f"{path} is no tokenizer.json; give that file, its directory, or a repository.")
