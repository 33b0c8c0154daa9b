"""The requests of one call of `LLM`, from the engine's queue to their outputs. Reads no prompts.

All are queued at once and the scheduler runs as many as fit: a prompt that waits costs its ids.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol

from engine.errors import EngineError, InvalidInput
from engine.llm_inputs import Prompt
from engine.llm_logprobs import of_tokens
from engine.llm_outputs import CompletionOutput, Logprobs, RequestOutput
from engine.llm_params import Roles, SamplingParams
from engine.messages import (
    EngineInfo,
    EngineLike,
    SequenceOutput,
    SequenceRequest,
    TokenLogprob,
)
from engine.text.answer import Answer
from engine.text.tokenizer import Tokenizer


class Meter(Protocol):
    """What is told of the progress."""

    def made(self, num_tokens: int) -> None:
        """A step is over that made so many tokens."""

    def ended(self, num_prompt_tokens: int) -> None:
        """A request is over."""


class Request:
    """A prompt with its sampling values, and the answers as far as they are."""

    def __init__(self, request_id: str, prompt: Prompt, params: SamplingParams, seed: int) -> None:
        self.id = request_id
        self.prompt = prompt
        self.params = params
        self.seed = seed
        self.num_open = params.n
        self._answers: list[Answer] = []
        self._texts: list[list[str]] = []
        self._described: list[list[TokenLogprob]] = []
        self._prompt_described: list[TokenLogprob] = []

    def sequences(
        self, tokenizer: Tokenizer, info: EngineInfo, roles: Roles
    ) -> Iterator[SequenceRequest]:
        """What the engine is to run, one for each answer. Raises InvalidInput."""
        room = max(info.context_length - len(self.prompt.token_ids), 1)
        rules, grammar = self.params.rules(tokenizer, info.vocab_size), self._grammar(tokenizer)
        for choice in range(self.params.n):
            self._texts.append([])
            self._described.append([])
            self._answers.append(
                Answer(
                    tokenizer,
                    self.params.stops,
                    is_continuation=not self.prompt.is_chat,
                    skip_special_tokens=self.params.skip_special_tokens,
                    includes_stop=self.params.include_stop_str_in_output,
                )
            )
            params = self.params.settled(
                seed=self.seed, choice=choice, room=room, roles=roles, rules=rules, grammar=grammar
            )
            yield SequenceRequest(
                id=f"{self.id}/{choice}", prompt_ids=self.prompt.token_ids, params=params
            )

    def _grammar(self, tokenizer: Tokenizer) -> str:
        structure = self.params.structure
        if structure is None:
            return ""
        return structure.compiled(is_led=self.prompt.is_chat and tokenizer.drops_first_space)

    def take(self, choice: int, output: SequenceOutput) -> bool:
        """Take in what a step made of an answer; true if that is its end."""
        answer = self._answers[choice]
        if output.cached_tokens:
            answer.cached_tokens = output.cached_tokens
        taken, text = answer.take(output.token_ids, output.finish)
        self._texts[choice].append(text)
        self._described[choice] += output.logprobs[: len(taken)]
        self._prompt_described += output.prompt_logprobs
        if answer.finish is None:
            return False
        self.num_open -= 1
        return True

    def output(self, tokenizer: Tokenizer) -> RequestOutput:
        """The end of it all."""
        prompt_logprobs: list[Logprobs | None] | None = None
        if self.params.prompt_logprobs is not None:
            ids = self.prompt.token_ids[1:]
            prompt_logprobs = [None, *of_tokens(tokenizer, ids, self._prompt_described)]
        return RequestOutput(
            request_id=self.id,
            prompt=self.prompt.text,
            prompt_token_ids=self.prompt.token_ids,
            outputs=[self._completion(choice, tokenizer) for choice in range(self.params.n)],
            num_cached_tokens=self._answers[0].cached_tokens,
            prompt_logprobs=prompt_logprobs,
        )

    def _completion(self, choice: int, tokenizer: Tokenizer) -> CompletionOutput:
        answer, described = self._answers[choice], self._described[choice]
        assert answer.finish is not None
        is_asked = self.params.logprobs is not None
        return CompletionOutput(
            index=choice,
            text="".join(self._texts[choice]),
            token_ids=answer.token_ids,
            finish_reason=answer.finish,
            stop_reason=self._stop_reason(answer),
            logprobs=of_tokens(tokenizer, answer.token_ids, described) if is_asked else None,
            cumulative_logprob=sum(item.logprob for item in described) if is_asked else None,
        )

    def _stop_reason(self, answer: Answer) -> str | int | None:
        if answer.matched_stop is not None or answer.finish != "stop":
            return answer.matched_stop
        last = answer.token_ids[-1]
        return last if last in (self.params.stop_token_ids or ()) else None


def run(
    engine: EngineLike,
    tokenizer: Tokenizer,
    roles: Roles,
    requests: Sequence[Request],
    meter: Meter,
) -> None:
    """Run all requests to their end. `roles.end_ids` end an answer that does not ignore them.

    Raises EngineError, before anything runs, if one of them can never run. However this is left,
    nothing of them stays in the engine.
    """
    routes: dict[str, tuple[Request, int]] = {}
    try:
        for number, request in enumerate(requests):
            _add(engine, tokenizer, roles, number, request, routes)
        with _whole_steps() as is_interrupted:
            while routes:
                _take(engine, engine.step(), routes, meter)
                if is_interrupted():
                    raise KeyboardInterrupt
    finally:
        for sequence_id in routes:
            engine.cancel(sequence_id)


def _add(
    engine: EngineLike,
    tokenizer: Tokenizer,
    roles: Roles,
    number: int,
    request: Request,
    routes: dict[str, tuple[Request, int]],
) -> None:
    try:
        for choice, sequence in enumerate(request.sequences(tokenizer, engine.info, roles)):
            engine.add(sequence)
            routes[sequence.id] = request, choice
    except EngineError as error:
        error.add_note(f"This is about prompt {number}.")
        raise


def _take(
    engine: EngineLike,
    outputs: Sequence[SequenceOutput],
    routes: dict[str, tuple[Request, int]],
    meter: Meter,
) -> None:
    for output in outputs:
        if output.error is not None:
            code, message = output.error
            raise InvalidInput(message) if code == InvalidInput.code else EngineError(message)
        request, choice = routes[output.id]
        if request.take(choice, output):
            del routes[output.id]
            if output.finish is None:  # a stop string: the engine would go on
                engine.cancel(output.id)
            if request.num_open == 0:
                meter.ended(len(request.prompt.token_ids))
    meter.made(sum(len(output.token_ids) for output in outputs))


@contextlib.contextmanager
def _whole_steps() -> Iterator["_Flag"]:
    """Ctrl-C raises a flag, so that a step is never left half done; a second one does not wait.

    Only where Ctrl-C raises KeyboardInterrupt: in the main thread, without a handler of the user's.
    """
    flag = _Flag()
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield flag
        return
    signal.signal(signal.SIGINT, flag.on_signal)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Flag:
    def __init__(self) -> None:
        self._is_up = False

    def __call__(self) -> bool:
        return self._is_up

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_up:
            raise KeyboardInterrupt
        self._is_up = True
