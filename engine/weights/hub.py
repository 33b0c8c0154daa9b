"""Fetches the files a model needs from a Hugging Face repository. Knows no file's contents.

Torch-free. Every failure becomes a LoadError of one sentence that says what to do.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, errors, snapshot_download
from tqdm.std import tqdm

from engine.errors import LoadError
from engine.weights.hub_errors import explain
from engine.weights.progress import Progress

Token = str | bool | None  # as huggingface_hub has it: None is its own choice, False is none

_REPO = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_PLAIN_FILES = (
    *("config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"),
    *("*.jinja", "chat_template.json", "model*.safetensors", "model.safetensors.index.json"),
)
_TIMEOUT_S = 10.0
_DEFAULT_VARIABLE = "HUGGING_FACE_HUB_TOKEN"

log = logging.getLogger(__name__)


class Repo(NamedTuple):
    """A repository at a revision (a branch, a tag or a commit); None is its main branch."""

    id: str
    revision: str | None


def parse_repo(model: str, revision: str | None = None) -> Repo:
    """Read `org/name` or `org/name@revision`. Raises LoadError for anything else."""
    match = _REPO.fullmatch(model)
    if match is None:
        raise LoadError(
            f"{model!r} is neither a directory nor a repository; give an existing directory, "
            "org/name or org/name@revision."
        )
    return Repo(match["id"], revision or match["revision"])


def read_token(source: str, environ: Mapping[str, str]) -> Token:
    """The access token that a token source names. Raises LoadError, which never shows the token."""
    kind, _, value = source.partition(":")
    if source in ("cache", "none"):
        return None if source == "cache" else False
    if kind == "literal" and value:
        return value
    if kind == "env":
        return _token_from(environ, value or _DEFAULT_VARIABLE)
    if kind == "path" and value:
        return _token_in(Path(value).expanduser())
    raise LoadError(
        "The token source must be literal:TOKEN, env:VARIABLE, path:FILE, cache or none, "
        f"not one of kind {kind!r}."
    )


def _token_from(environ: Mapping[str, str], variable: str) -> str:
    token = environ.get(variable, "").strip()
    if not token:
        raise LoadError(
            f"The token source env:{variable} names a variable that is not set; set it, "
            "or choose --token-source cache or none."
        )
    return token


def _token_in(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"The token file {path} cannot be read ({error}).") from error
    if not token:
        raise LoadError(f"The token file {path} is empty; write the token into it.")
    return token


def fetch(
    repo: Repo, token: Token, gguf_files: Sequence[str] | None, progress: Progress | None = None
) -> Path:
    """The directory with the files of `repo` that a model needs, or just `gguf_files`, up to date.

    What is in the cache is not fetched again; if the Hub does not answer, the cache alone is used,
    with a warning. Raises LoadError.
    """
    try:
        sizes = _list_files(repo, token)
    except Exception as error:
        return _cached(repo, gguf_files, error)
    needed = _choose_plain(repo, sizes) if gguf_files is None else list(gguf_files)
    if gguf_files is not None:
        _check_gguf_files(repo, gguf_files, sizes)
    return _download(repo, token, {name: sizes[name] for name in needed}, progress)


def _list_files(repo: Repo, token: Token) -> dict[str, int]:
    # The one listing of huggingface_hub that does not try for 23 s when there is no network.
    info = HfApi(token=token).model_info(
        repo.id, revision=repo.revision, timeout=_TIMEOUT_S, files_metadata=True
    )
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _cached(repo: Repo, gguf_files: Sequence[str] | None, error: Exception) -> Path:
    try:
        path = snapshot_download(
            repo.id,
            revision=repo.revision,
            allow_patterns=list(gguf_files or _PLAIN_FILES),
            local_files_only=True,
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        raise LoadError(explain(error, repo.id, repo.revision)) from error
    log.warning("%s is served from the cache: %s", repo.id, explain(error, repo.id, repo.revision))
    return Path(path)


def _choose_plain(repo: Repo, sizes: Mapping[str, int]) -> list[str]:
    chosen = [name for name in sizes if any(fnmatch(name, p) for p in _PLAIN_FILES)]
    chosen = [name for name in chosen if "/" not in name]
    if "config.json" not in chosen:
        raise LoadError(f"{repo.id} has no config.json; {_gguf_hint(sizes)}.")
    if not any(name.endswith(".safetensors") for name in chosen):
        raise LoadError(_explain_no_weights(repo, sizes))
    return chosen


def _explain_no_weights(repo: Repo, sizes: Mapping[str, int]) -> str:
    if any(name.endswith((".bin", ".pth")) for name in sizes):
        return (
            f"{repo.id} has its weights in pickle files (.bin, .pth), which can run code when "
            "they are read; use a version of the model in safetensors format."
        )
    return f"{repo.id} has no model*.safetensors; {_gguf_hint(sizes)}."


def _gguf_hint(sizes: Mapping[str, int]) -> str:
    names = _gguf_in(sizes)
    if not names:
        return "choose a repository that holds a model in safetensors or GGUF format"
    return f"to serve one of its GGUF files, name it with -f: {', '.join(names)}"


def _check_gguf_files(repo: Repo, files: Sequence[str], sizes: Mapping[str, int]) -> None:
    for file in files:
        if file not in sizes:
            names = ", ".join(_gguf_in(sizes)) or "no GGUF files"
            raise LoadError(f"{repo.id} has no file {file}; it has {names}.")


def _gguf_in(sizes: Mapping[str, int]) -> list[str]:
    return sorted(name for name in sizes if name.endswith(".gguf"))


def _download(
    repo: Repo, token: Token, sizes: Mapping[str, int], progress: Progress | None
) -> Path:
    total_bytes = sum(sizes.values())
    try:
        path = snapshot_download(
            repo.id,
            revision=repo.revision,
            allow_patterns=list(sizes),
            token=token,
            tqdm_class=_progress_bars(total_bytes, progress),
        )
    except Exception as error:
        raise LoadError(explain(error, repo.id, repo.revision)) from error
    if progress is not None:
        progress(total_bytes, total_bytes)  # what was in the cache has no bar
    return Path(path)


def _progress_bars(total_bytes: int, progress: Progress | None) -> type[Any]:
    """An invisible progress bar for huggingface_hub that reports its byte counts to `progress`."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.counts_bytes and progress is not None:
                progress(min(int(self.n), total_bytes), total_bytes)

    return Bar
