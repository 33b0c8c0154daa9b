"""What went wrong with a Hugging Face repository, in one sentence that says what to do.

Torch-free; makes no requests.
"""

from huggingface_hub import errors

# The first class that fits is the one: a gated repository is also "not found" to huggingface_hub.
_SENTENCES: dict[type[Exception], str] = {
    errors.GatedRepoError: (
        "{repo} is gated: accept its terms at https://huggingface.co/{repo} and give a token of "
        "that account with --token-source."
    ),
    errors.RepositoryNotFoundError: (
        "{repo} was not found: check the name, or, if it is private, give a token that may read "
        "it with --token-source."
    ),
    errors.RevisionNotFoundError: (
        "{repo} has no revision {revision}: choose one listed at https://huggingface.co/{repo}."
    ),
    errors.DisabledRepoError: "{repo} was disabled by the Hub: choose another model.",
    errors.OfflineModeIsEnabled: (
        "{repo} is not in the cache and HF_HUB_OFFLINE forbids the network: unset it once, or "
        "give a local directory."
    ),
    errors.LocalTokenNotFoundError: (
        "{repo} asks for a token and there is none: give one with --token-source."
    ),
    errors.HFValidationError: "{repo} is no valid repository name: write it as org/name.",
}
_REFUSED = (
    "The Hub refuses {repo} to this token (HTTP {status}): give one that may read it with "
    "--token-source."
)
_ANSWERED = "The Hub answered HTTP {status} for {repo} ({reason}): try again later."
_DISK = "{repo} cannot be stored ({reason}): make room, or set HF_HOME to another disk."
_NETWORK = (
    "{repo} is not in the cache and the Hub cannot be reached ({reason}): check the network, or "
    "give a local directory."
)


def explain(error: Exception, repo: str, revision: str | None) -> str:
    """The sentence for an exception that huggingface_hub raised about `repo`."""
    template, status = _template(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return template.format(
        repo=repo, revision=revision or "main", status=status, reason=lines[0].rstrip(".")
    )


def _template(error: Exception) -> tuple[str, int]:
    for kind, sentence in _SENTENCES.items():
        if isinstance(error, kind):
            return sentence, 0
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return (_REFUSED if status in (401, 403) else _ANSWERED), status
    # The system's own errors carry an errno; those of the HTTP client do not.
    is_disk = isinstance(error, OSError) and error.errno is not None
    return (_DISK if is_disk else _NETWORK), 0
