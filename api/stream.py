"""A job's events as SSE frames, pure. Knows no HTTP, no Redis and no clock.

`id:` is the event's number, so `Last-Event-ID` resumes; the parts of a frame that do not change are
rendered once.
"""

from collections.abc import Iterable, Sequence

import msgspec

from api.errors import ApiError
from api.logprobs import TextOffsets, chat_logprobs
from api.schema.response import ToolCallDelta, Usage
from workers import contract

# No blank line after it: openai's client makes an event without data of one that follows an `id:`.
PING = b": ping\n"
WAITING = b": waiting\n\n"
DRAINING = b": draining; go on at /v1/jobs/{id}/events with Last-Event-ID\nretry: 1000\n\n"
DONE = b"data: [DONE]\n\n"

_json = msgspec.json.Encoder().encode


class Frames:
    """Renders one client's stream of one job.

    `after` is the last event number that the client has.
    """

    ping = PING

    def __init__(self, job: contract.Job, fingerprint: str = "", after: int = -1) -> None:
        is_chat = job.kind == "chat"
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        fields = {"id": job.id, "object": kind, "created": job.created_s, "model": job.model}
        head = _json({**fields, "system_fingerprint": fingerprint or None})
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._has_usage = job.include_usage
        self._tail = b'],"usage":null}\n\n' if job.include_usage else b"]}\n\n"
        self._text_key = b'"delta":{"content":' if is_chat else b'"text":'
        self._text_end = b"}" if is_chat else b""
        self._roles = range(job.num_choices) if is_chat else range(0)
        self._after = after
        self._prefixes = [self._prefix(choice) for choice in range(job.num_choices)]
        self._going_on = self._suffix(None)
        self._counts = _Counts() if job.includes_usage_always else None
        self._logprobs = [_Logprobs(is_chat) for _ in range(job.num_choices)]

    def render(self, events: Iterable[contract.Event]) -> bytes:
        """The frames of these events, in one piece; empty if there is nothing to show."""
        frames: list[bytes] = []
        for event in events:
            if isinstance(event, contract.Tokens):
                self._tokens(event, frames)
            elif isinstance(event, contract.Started):
                self._started(event, frames)
            elif isinstance(event, contract.Done):
                self._done(event, frames)
            elif isinstance(event, contract.Failed):
                frames.append(failed_frames(event))
        return b"".join(frames)

    def _tokens(self, event: contract.Tokens, frames: list[bytes]) -> None:
        number = event.offset
        for delta in event.deltas:
            told = self._logprobs[delta.choice].take(delta.logprobs) if delta.logprobs else None
            if self._counts is not None:
                self._tail = self._counts.add(len(delta.token_ids))
            if number > self._after and _is_shown(delta):
                suffix = self._going_on
                if delta.finish or told or self._counts is not None:
                    suffix = self._suffix(delta.finish, told)
                said = self._said(delta)
                frames.append(
                    b"id: %d\n%b%b%b" % (number, self._prefixes[delta.choice], said, suffix)
                )
            number += 1

    def _said(self, delta: contract.Delta) -> bytes:
        """The text, or of a chat all that was said beside it too, behind the prefix's key."""
        text = _json(delta.text)
        if delta.reasoning:
            text += b',"reasoning_content":%b' % _json(delta.reasoning)
        if delta.calls:
            text += b',"tool_calls":%b' % _json([ToolCallDelta.of(call) for call in delta.calls])
        return text

    def _started(self, event: contract.Started, frames: list[bytes]) -> None:
        if self._counts is not None:
            self._tail = self._counts.start(event.prompt_tokens)
        if event.offset <= self._after or not self._roles:
            return
        for choice in self._roles:
            body = b'{"index":%d,"delta":{"role":"assistant","content":""},' % choice
            frames.append(self._head + body + b'"logprobs":null,"finish_reason":null}' + self._tail)
        # The number goes on the last of them: a client that lost some gets all again.
        frames[-1] = b"id: %d\n%b" % (event.offset, frames[-1])

    def _done(self, event: contract.Done, frames: list[bytes]) -> None:
        if self._has_usage:
            frames.append(self._head + b'],"usage":%b}\n\n' % _json(Usage.of(event.usage)))
        frames.append(b"id: %d\n%b" % (event.offset, DONE))

    def _prefix(self, choice: int) -> bytes:
        return b'%b{"index":%d,%b' % (self._head, choice, self._text_key)

    def _suffix(self, finish: str | None, logprobs: bytes | None = None) -> bytes:
        return b'%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._text_end,
            logprobs or b"null",
            _json(finish),
            self._tail,
        )


def failed_frames(event: contract.Failed) -> bytes:
    """The frames of a failure."""
    frame = b"data: %b\n\n" % _json(ApiError.of(event).response())
    # A failure that the log does not have has no number either: after it, the client may still go
    # on.
    return frame + (b"id: %d\n%b" % (event.offset, DONE) if event.offset >= 0 else DONE)


def _is_shown(delta: contract.Delta) -> bool:
    return bool(delta.text or delta.finish or delta.logprobs or delta.reasoning or delta.calls)


class _Counts:
    """The usage so far, as the end of each frame."""

    def __init__(self) -> None:
        self._prompt = self._completion = 0

    def start(self, prompt_tokens: int) -> bytes:
        self._prompt = prompt_tokens
        return self.add(0)

    def add(self, num_tokens: int) -> bytes:
        self._completion += num_tokens
        counts = (self._prompt, self._completion, self._prompt + self._completion)
        usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % counts
        return b'],"usage":%b}\n\n' % usage


class _Logprobs:
    """Those of one choice as JSON; what a client has already still counts for the offsets."""

    def __init__(self, is_chat: bool) -> None:
        self._offsets = None if is_chat else TextOffsets()

    def take(self, told: Sequence[contract.TokenLogprob]) -> bytes:
        if self._offsets is None:
            return _json(chat_logprobs(told))
        return _json(self._offsets.logprobs(told))
