"""A text job while its sequences run: engine outputs in, log entries out.

Knows no Redis and no socket.
"""

import time
from collections.abc import Iterable, Sequence

import msgspec

from engine.config import SamplingParams
from engine.messages import SequenceOutput, SequenceRequest, TokenLogprob
from engine.text.tokenizer import Tokenizer
from workers.choice import Choice
from workers.contract import Delta, Done, Event, Job, Started, Tokens, Usage
from workers.prepare import Plan
from workers.run import Attempt, Run


class JobRun(Run[Choice]):
    """One attempt at one job that makes text; its parts are its answers."""

    makes_tokens = True

    def __init__(
        self, job: Job, plans: Sequence[Plan], tokenizer: Tokenizer, attempt: Attempt
    ) -> None:
        choices = [
            Choice(
                n,
                tokenizer,
                job.sampling,
                is_continuation=job.continues_text,
                hearing=plan.hearing,
                job_id=job.id,
            )
            for n, plan in enumerate(plans)
        ]
        super().__init__(job, choices, attempt)
        self._plans = plans
        self._deltas: list[Delta] = []
        self._num_open = len(self.choices)

    @property
    def choices(self) -> list[Choice]:
        """The answers."""
        return self.parts

    @property
    def usage(self) -> Usage:
        """Token counts so far; each prompt counts once."""
        firsts = range(0, len(self._plans), self.job.n)
        return Usage(
            sum(len(self._plans[n].prompt_ids) for n in firsts),
            sum(len(choice.token_ids) for choice in self.choices),
            sum(self.choices[n].cached_tokens for n in firsts),
        )

    @property
    def num_new(self) -> int:
        """Tokens that this attempt has made."""
        return sum(len(choice.token_ids) for choice in self.choices) - self.num_replayed

    @property
    def num_places(self) -> int:
        """One for each answer that is not finished."""
        return self._num_open

    def replay(self, events: Iterable[Event]) -> None:
        """Bring detokenizers and stop strings to where an earlier attempt left them."""
        for event in events:
            if isinstance(event, Tokens):
                for delta in event.deltas:
                    self._replay(self.choices[delta.choice], delta)
        self.num_replayed = sum(len(choice.token_ids) for choice in self.choices)

    def _replay(self, choice: Choice, delta: Delta) -> None:
        if delta.is_prompt:
            choice.has_shown_prompt = True
        else:
            self._push(choice, delta.token_ids, delta.finish)

    def _push(
        self,
        choice: Choice,
        token_ids: Sequence[int],
        finish: str | None,
        described: Sequence[TokenLogprob] = (),
    ) -> Delta:
        delta = choice.push(token_ids, finish, described)
        if choice.finish is not None:
            self._num_open -= 1
        return delta

    def start(self) -> None:
        """Hand the sequences to the engine. Raises EngineDied."""
        if self.log.offset == 0:
            self._append(Started(0, self.usage.prompt_tokens))
        for choice, plan in zip(self.choices, self._plans, strict=True):
            if choice.finish is None:
                self._start(choice, plan)
        self.end_step()

    def _start(self, choice: Choice, plan: Plan) -> None:
        params = plan.params
        if self._owes_prompt(choice) and params.num_prompt_logprobs is None:
            self._show_prompt(choice, None)
        is_owed = self._owes_prompt(choice)  # until the engine has described it
        if not is_owed and params.num_prompt_logprobs is not None:
            params = msgspec.structs.replace(params, num_prompt_logprobs=None)
        if is_owed or len(choice.token_ids) < params.max_tokens:
            self._send(choice, self._request(choice, plan, params))
        else:
            self._deltas.append(self._push(choice, (), "length"))

    def _owes_prompt(self, choice: Choice) -> bool:
        return self.job.shows_prompt and not choice.has_shown_prompt

    def _show_prompt(self, choice: Choice, described: Sequence[TokenLogprob] | None) -> None:
        plan = self._plans[choice.number]
        prompt = (self.job.prompts or [])[plan.prompt]
        self._deltas.append(choice.show_prompt(prompt, plan.prompt_ids, described))

    def _request(self, choice: Choice, plan: Plan, params: SamplingParams) -> SequenceRequest:
        return SequenceRequest(
            id=self.sequence_id(choice),
            prompt_ids=plan.prompt_ids,
            params=params,
            output_ids=list(choice.token_ids),
            salt=self.job.tenant,
        )

    def take(self, choice: Choice, output: SequenceOutput) -> None:
        """One sequence's part of a step; `end_step` follows when all parts are in."""
        if self.ended.done():
            return
        if output.error is not None:
            self.fail(*output.error)
            return
        if output.cached_tokens:
            choice.cached_tokens = output.cached_tokens
        if not output.token_ids and output.finish is None:
            return
        if self._owes_prompt(choice):
            self._show_prompt(choice, output.prompt_logprobs)
        delta = self._push(choice, output.token_ids, output.finish, output.logprobs)
        self._deltas.append(delta)
        if choice.finish is not None and output.finish is None:  # a stop string: the engine goes on
            self._engine.cancel(output.id)

    def end_step(self) -> None:
        """Write what the step made as one entry, and the end of the job if this was it."""
        if self.ended.done():
            return
        if self._deltas:
            if self.first_token_s is None:
                self.first_token_s = time.monotonic()
            deltas, self._deltas = tuple(self._deltas), []
            self._append(Tokens(self.log.offset, deltas))
        if self._num_open == 0:
            self._append(Done(self.log.offset, self.usage))
            self.ended.set_result("over")
