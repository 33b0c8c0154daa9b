"""Lists and fetches files of a Hugging Face repository. Knows no file's contents, chooses none.

Torch-free. Every failure becomes a LoadError of one sentence that says what to do.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, errors, snapshot_download
from tqdm.std import tqdm

from engine.errors import LoadError
from engine.weights.hub_errors import explain
from engine.weights.hub_token import Token
from engine.weights.progress import Progress

_REPO = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_TIMEOUT_S = 10.0

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


class Listing(NamedTuple):
    """The files of a repository: path -> size in bytes.

    `cached` is the cache's directory where the Hub gave no answer and `sizes` is what is in it;
    `reason` then says why not even that will do, should a file be missing.
    """

    repo: Repo
    token: Token
    sizes: Mapping[str, int]
    cached: Path | None = None
    reason: str = ""


def list_files(repo: Repo, token: Token) -> Listing:
    """The files there are, by the Hub or, if it gives no answer, by the cache, with a warning.

    Raises LoadError if neither has the repository.
    """
    try:
        # The one listing of huggingface_hub that does not try for 23 s when there is no network.
        info = HfApi(token=token).model_info(
            repo.id, revision=repo.revision, timeout=_TIMEOUT_S, files_metadata=True
        )
    except Exception as error:
        return _list_cache(repo, token, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Listing(repo, token, sizes)


def _list_cache(repo: Repo, token: Token, error: Exception) -> Listing:
    reason = explain(error, repo.id, repo.revision)
    try:
        # No pattern: whether what is needed is complete is for those to say who know what it is.
        path = snapshot_download(
            repo.id, revision=repo.revision, allow_patterns=[], local_files_only=True
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        raise LoadError(reason) from error
    if not isinstance(error, errors.OfflineModeIsEnabled):  # which is what the user wished
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("%s is served from the cache, as the Hub gave no answer: %s", repo.id, cause)
    directory = Path(path)
    sizes = {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in directory.rglob("*")
        if file.is_file()
    }
    return Listing(repo, token, sizes, directory, reason)


def download(listing: Listing, names: Iterable[str], progress: Progress | None = None) -> Path:
    """The directory that has the files `names` of the listing, those in the cache as they are.

    A connection that breaks off is taken up again where it was; a process that is killed loses the
    file it was at, and keeps those before. Raises LoadError.
    """
    repo, sizes = listing.repo, _sizes(listing, names)
    if listing.cached is not None:
        return listing.cached
    total_bytes = sum(sizes.values())
    try:
        path = snapshot_download(
            repo.id,
            revision=repo.revision,
            allow_patterns=[escape(name) for name in sizes],
            token=listing.token,
            tqdm_class=_progress_bars(total_bytes, progress),
        )
    except Exception as error:
        raise LoadError(explain(error, repo.id, repo.revision)) from error
    if progress is not None:
        progress(total_bytes, total_bytes)  # what was in the cache has no bar
    return Path(path)


def _sizes(listing: Listing, names: Iterable[str]) -> dict[str, int]:
    try:
        return {name: listing.sizes[name] for name in names}
    except KeyError as error:
        raise LoadError(
            f"{listing.repo.id} lacks {error.args[0]}, which belongs to the model; choose another."
        ) from error


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
