"""What a stream should have said, and whether it did: nothing lost, nothing twice, one end.

The truth is the scripted engine's function, computed here without any of the processes.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from engine.text.detokenizer import Detokenizer
from engine.text.text_model import TextModel
from tests.chaos.client import Stream
from tests.scripted_engine import key_of, token_at


class Truth(Protocol):
    """Knows the whole text of every choice of every question."""

    def answer(self, body: dict[str, Any], choice: int = 0) -> str: ...


class Recorded:
    """What the same questions got when nothing happened."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        self._texts = {_key(s.body, n): s.text(n) for s in streams for n in range(_num(s.body))}

    def answer(self, body: dict[str, Any], choice: int = 0) -> str:
        return self._texts[_key(body, choice)]


def _key(body: dict[str, Any], choice: int) -> str:
    return json.dumps([{**body, "stream": True}, choice], sort_keys=True)


def _num(body: dict[str, Any]) -> int:
    return int(body.get("n", 1))


class Oracle:
    """The scripted engine's answers. `vocabulary`: the ids it draws from."""

    def __init__(self, text: TextModel, vocabulary: list[int]) -> None:
        self._text = text
        self._vocabulary = vocabulary
        self._prompts: dict[str, list[int]] = {}
        self.tokenizer = text.tokenizer

    def prompt_ids(self, body: dict[str, Any]) -> list[int]:
        if "prompt" in body:
            prompt = body["prompt"]
            return prompt if isinstance(prompt, list) else self._text.tokenizer.encode(prompt)
        assert self._text.chat_template is not None
        prompt = self._text.chat_template.render(body["messages"])
        if prompt not in self._prompts:
            self._prompts[prompt] = self._text.tokenizer.encode(prompt, add_special_tokens=False)
        return self._prompts[prompt]

    def answer(self, body: dict[str, Any], choice: int = 0) -> str:
        """The whole text of a choice that ends at `max_tokens`."""
        key = key_of(self.prompt_ids(body), body["seed"], choice)
        ids = [token_at(self._vocabulary, key, at) for at in range(body["max_tokens"])]
        detokenizer = Detokenizer(self._text.tokenizer, is_continuation="prompt" in body)
        return detokenizer.push(ids) + detokenizer.flush()


def faults(stream: Stream, oracle: Truth) -> list[str]:
    """What is wrong with a stream; empty if nothing is."""
    found = [f"error: {error}" for error in stream.errors()]
    ids = [frame.event_id for frame in stream.frames if frame.event_id is not None]
    if ids != sorted(set(ids)):
        found.append(f"event ids repeat or go back: {ids}")
    dones = sum(frame.data == "[DONE]" for frame in stream.frames)
    if dones != 1:
        found.append(f"{dones} times [DONE]")
    for choice in range(_num(stream.body)):
        expected = oracle.answer(stream.body, choice)
        if (text := stream.text(choice)) != expected:
            found.append(f"choice {choice}: {_difference(text, expected)}")
        if (finishes := stream.finishes(choice)) != ["length"]:
            found.append(f"choice {choice}: finish reasons {finishes}")
    return found


def _difference(text: str, expected: str) -> str:
    pairs = zip(text, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(expected)))
    return (
        f"{len(text)} characters, not {len(expected)}; from {at} on "
        f"{text[at : at + 40]!r}, not {expected[at : at + 40]!r}"
    )


def check(streams: Iterable[Stream], oracle: Truth) -> None:
    """Fail with all that is wrong with any of the streams."""
    streams = list(streams)
    found = {f"{n} ({s.job_id})": f for n, s in enumerate(streams) if (f := faults(s, oracle))}
    kinds = Counter(fault.split(":")[0] for list_ in found.values() for fault in list_)
    some = "\n".join(f"stream {name}: {'; '.join(f)}" for name, f in list(found.items())[:5])
    assert not found, f"{len(found)} of {len(streams)} streams are wrong {dict(kinds)}\n{some}"
