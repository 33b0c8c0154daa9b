"""The entries of a job's token log. Knows msgspec only."""

from collections.abc import Sequence

import msgspec


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Token counts over all choices; a prompt that several choices share counts once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token, the natural logarithm of its probability, and the most probable ones in its place.

    The probability is the model's own, whatever the sampler did to it. The first token of a prompt
    has none.
    """

    token: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...] = ()


class CallDelta(msgspec.Struct, frozen=True, array_like=True):
    """A piece of tool call `index`: its id and name in the first one, then its arguments' text."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What one engine step made for one choice.

    `text` lags `token_ids` while a character or a stop string is open. `logprobs` has one item a
    token. One that `is_prompt` repeats the prompt: its text and log-probabilities, no new token.
    """

    choice: int
    token_ids: tuple[int, ...]
    text: str
    finish: str | None = None  # stop, length, tool_calls
    logprobs: tuple[TokenLogprob, ...] | None = None
    is_prompt: bool = False
    reasoning: str = ""
    calls: tuple[CallDelta, ...] | None = None
    matched_stop: str | None = None  # the stop string that ended it


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """The job is valid and went to an engine. Always event 0, written once for all attempts."""

    offset: int
    prompt_tokens: int


class Tokens(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """One engine step of one job. Its deltas are the events `offset`, `offset + 1` and so on."""

    offset: int
    deltas: tuple[Delta, ...]


class Vectors(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """What the inputs `first`, `first + 1` and so on came to: `num` vectors, each one event.

    `data` is them all, one after the other, little-endian float32. A job's inputs come in order.
    The scripts read what is before `data`: it comes last.
    """

    offset: int
    first: int
    num: int
    data: bytes

    def parts(self) -> list[bytes]:
        """The vectors."""
        size = len(self.data) // self.num
        return [self.data[at : at + size] for at in range(0, len(self.data), size)]

    def behind(self, count: int) -> "Vectors":
        """The same without its first `count` vectors."""
        data = self.data[count * len(self.data) // self.num :]
        return Vectors(self.offset + count, self.first + count, self.num - count, data)


class Done(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """Terminal: every choice has finished."""

    offset: int
    usage: Usage


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """Terminal: the job ended without an answer. `api/errors.py` maps the code to a status."""

    offset: int
    code: str
    message: str
    param: str | None = None


class Fence(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """A new attempt took over. It moves the log's length, so the old one can no longer append."""

    attempt: int
    worker: str


class Retried(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """Stands where a failure stood, with its number, since an operator started the job again."""

    offset: int


Event = Started | Tokens | Vectors | Done | Failed | Fence | Retried

# The codes of Failed that a worker writes itself; the others are those of engine/errors.py.
WORKER_FAILURES = (
    "cancelled",  # the client gave the job up
    "job_expired",  # it waited longer than its record lives
    "too_many_attempts",  # workers died under it again and again
    "unreadable_job",  # its record or log is of another schema version, or damaged
    "timeout",  # it ran longer than a job may
    "internal_error",  # our bug; the worker's log has the traceback
    "deadline_exceeded",  # its client's time was up
    "engine_crashed",  # it crashed engines, and is a dead letter now
    "model_changed",  # other weights than those that began the answer
    "no_workers",  # nobody took it in time
)


def num_events(event: Event) -> int:
    """How many event numbers (the SSE ids) the entry takes."""
    if isinstance(event, Tokens):
        return len(event.deltas)
    if isinstance(event, Vectors):
        return event.num
    return 0 if isinstance(event, Fence) else 1


def is_terminal(event: Event) -> bool:
    """True for the entry that ends a log."""
    return isinstance(event, Done | Failed)


def completion_tokens(events: Sequence[Event]) -> int:
    """Tokens that a log's entries hold."""
    return sum(len(d.token_ids) for e in events if isinstance(e, Tokens) for d in e.deltas)
