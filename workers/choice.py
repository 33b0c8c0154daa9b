"""One answer of a job, as deltas for its log. Knows no log; replayed ids restore it."""

from collections.abc import Iterable, Sequence

import msgspec

from engine.messages import TokenLogprob as EngineLogprob
from engine.text.answer import Answer
from engine.text.speech import Call
from engine.text.tokenizer import Tokenizer
from workers.contract import Delta, Sampling
from workers.hearing import Hearing
from workers.logprobs import of_prompt, of_tokens


class Choice(Answer):
    """Answer number `number` of a job."""

    def __init__(
        self,
        number: int,
        tokenizer: Tokenizer,
        asked: Sampling,
        *,
        is_continuation: bool,
        hearing: Hearing | None = None,
        job_id: str = "",
    ) -> None:
        """`hearing` says what the text may have beside an answer; `job_id` names tool calls."""
        super().__init__(
            tokenizer,
            asked.stop,
            is_continuation=is_continuation,
            skip_special_tokens=not asked.shows_special_tokens,
            includes_stop=asked.includes_stop,
            shown_ids=() if hearing is None else hearing.shown_ids(tokenizer),
        )
        self._arguments = ""  # of the latest call
        self._job_id = job_id
        self._hearing = hearing
        self._listener = None if hearing is None else hearing.listener()
        self.number = number
        self.has_shown_prompt = False
        self._tokenizer = tokenizer

    def push(
        self,
        token_ids: Sequence[int],
        finish: str | None,
        described: Sequence[EngineLogprob] = (),
    ) -> Delta:
        """Take what one step made, up to the token that completes a stop string."""
        taken, text = self.take(token_ids, finish)
        logprobs = of_tokens(self._tokenizer, taken, described[: len(taken)])
        if self._hearing is None or self._listener is None:
            return Delta(
                self.number, taken, text, self.finish, logprobs, matched_stop=self.matched_stop
            )
        said = self._listener.push(text)
        if self.finish is not None:
            said = said.then(self._listener.end())
        self._hear_arguments(said.calls)
        is_call = self.finish == "stop" and self._listener.num_calls > 0 and not self._is_cut
        return Delta(
            self.number,
            taken,
            said.content,
            "tool_calls" if is_call else self.finish,
            logprobs,
            reasoning=said.reasoning,
            calls=self._hearing.deltas(self._job_id, self.number, said.calls) or None,
            matched_stop=self.matched_stop,
        )

    def _hear_arguments(self, calls: Iterable[Call]) -> None:
        for call in calls:
            self._arguments = call.arguments if call.name else self._arguments + call.arguments

    @property
    def _is_cut(self) -> bool:
        """True if a stop string was met within a call, whose arguments are no use then."""
        return self.matched_stop is not None and not _is_json(self._arguments)

    def show_prompt(
        self,
        prompt: str | Sequence[int],
        prompt_ids: Sequence[int],
        described: Sequence[EngineLogprob] | None,
    ) -> Delta:
        """The prompt as the beginning of the answer, as text if it came as text.

        `described` is what the engine says of its tokens, None if it was not asked.
        """
        self.has_shown_prompt = True
        if isinstance(prompt, str):
            text = prompt
        else:
            text = self._tokenizer.decode(prompt_ids, skip_special_tokens=False)
        logprobs = None if described is None else of_prompt(self._tokenizer, prompt_ids, described)
        return Delta(self.number, (), text, None, logprobs, is_prompt=True)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
