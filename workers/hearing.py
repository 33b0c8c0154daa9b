"""How a job's answers are to be heard: which reasoning and tool calls they may have.

Knows a template and a job, no answer.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from engine.text.chat_template import ChatTemplate
from engine.text.listener import Listener
from engine.text.reasoning import Thinking, is_thinking
from engine.text.speech import Call
from engine.text.tokenizer import Tokenizer
from engine.text.tools.formats import MISTRAL, Format
from workers.contract import CallDelta, Job


class Hearing(NamedTuple):
    """What is listened for; `is_thinking` says that the prompt ended inside of reasoning."""

    tools: Format | None
    tool_names: tuple[str, ...]
    max_calls: int | None
    thinking: Thinking | None
    is_thinking: bool

    @classmethod
    def of(cls, job: Job, template: ChatTemplate, prompt: str) -> "Hearing | None":
        """What the answers to `prompt`, as rendered, may have; None if they are text alone."""
        thinking = template.thinking if job.tells_reasoning else None
        tools = template.tool_format if job.tools else None
        if thinking is None and tools is None:
            return None
        names = tuple(tool["function"]["name"] for tool in job.tools)
        begun = thinking is not None and is_thinking(prompt, thinking)
        return cls(tools, names, job.max_calls, thinking, begun)

    def listener(self) -> Listener:
        """One for an answer."""
        return Listener(
            tools=self.tools,
            tool_names=self.tool_names,
            max_calls=self.max_calls,
            thinking=self.thinking,
            is_thinking=self.is_thinking,
        )

    def shown_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special tokens that have to be seen."""
        marks = (*(self.tools.marks if self.tools else ()), *(self.thinking or ()))
        ids = (tokenizer.token_to_id(mark) for mark in marks)
        return frozenset(id_ for id_ in ids if id_ is not None)

    def deltas(self, job_id: str, choice: int, calls: Iterable[Call]) -> tuple[CallDelta, ...]:
        """Pieces of calls with ids that are the same in every attempt."""
        return tuple(
            CallDelta(
                call.number,
                None if call.name is None else self._call_id(job_id, choice, call.number),
                call.name,
                call.arguments,
            )
            for call in calls
        )

    def _call_id(self, job_id: str, choice: int, index: int) -> str:
        digest = blake2b(f"{job_id}/{choice}/{index}".encode(), digest_size=12).hexdigest()
        # Mistral's templates refuse any but those of nine letters and digits.
        return digest[:9] if self.tools is MISTRAL else f"call_{digest}"
