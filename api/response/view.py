"""A response is a view on its job: job and log events in, OpenAI's object out, pure.

Knows no HTTP, no Redis and no clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from api.errors import ApiError
from api.response.conversation import echo_of, instructions_of
from api.response.item import Item
from api.response.output import Growing, Output
from api.schema.response_items import ItemStatus, OutputItem
from api.schema.response_object import (
    IncompleteDetails,
    Reasoning,
    ResponseError,
    ResponseObject,
    ResponseUsage,
    Status,
)
from api.spoken import Piece
from workers import contract

TERMINAL: tuple[Status, ...] = ("completed", "incomplete", "failed", "cancelled")
_TIERS: Mapping[str, str] = {"interactive": "priority", "default": "default", "batch": "flex"}
_ITEM_STATUS: Mapping[Status, ItemStatus] = {
    "completed": "completed",
    "in_progress": "in_progress",
}


class ResponseView:
    """What the events so far have made of a response."""

    def __init__(self, job: contract.Job) -> None:
        self.job = job
        self.failed: contract.Failed | None = None
        self.output = Output(job)
        self._echo = echo_of(job)
        self._is_started = False
        self._finish: str | None = None
        self._usage: contract.Usage | None = None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            if isinstance(event, contract.Tokens):
                for delta in event.deltas:
                    for piece in self.pieces(delta):
                        self.output.say(piece)
            else:
                self.note(event)

    def note(self, event: contract.Event) -> None:
        """Take in an event that says nothing."""
        if isinstance(event, contract.Started):
            self._is_started = True
        elif isinstance(event, contract.Done):
            self.output.end()
            self._usage = event.usage
        elif isinstance(event, contract.Failed):
            self.failed = event

    def pieces(self, delta: contract.Delta) -> Iterator[Piece]:
        """What one step made; each has to be said before the next is taken."""
        self._finish = delta.finish or self._finish
        return self.output.pieces(delta)

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        if self.failed is not None:
            raise ApiError.of(self.failed)

    @property
    def is_background(self) -> bool:
        """True if the response runs on when its client leaves, and is queued at first."""
        return self._echo.is_background

    @property
    def status(self) -> Status:
        """Where the response is in its life."""
        if self.failed is not None:
            return "cancelled" if self.failed.code == "cancelled" else "failed"
        if self._usage is not None:
            return "incomplete" if self._finish == "length" else "completed"
        return "in_progress" if self._is_started else "queued"

    def status_of(self, item: Growing) -> ItemStatus:
        """Where an item is in its life: only the last one can be other than complete."""
        if item is not self.output.items[-1]:
            return "completed"
        return _ITEM_STATUS.get(self.status, "incomplete")

    def items(self) -> list[OutputItem]:
        """The output so far."""
        return [item.view(self.status_of(item)) for item in self.output.items]

    def turn(self) -> list[Item]:
        """The output as a part of a longer conversation."""
        return [item.item(self.status_of(item)) for item in self.output.items]

    def response(
        self, *, status: Status | None = None, output: list[OutputItem] | None = None
    ) -> ResponseObject:
        """The object at this moment, or as it was when it had another status and output."""
        job, echo, status = self.job, self._echo, status or self.status
        usage = self._usage if status in TERMINAL else None
        return ResponseObject(
            id=job.id,
            created_at=job.created_s,
            status=status,
            background=echo.is_background,
            error=self._error() if status == "failed" else None,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            instructions=instructions_of(job),
            max_output_tokens=job.sampling.max_tokens,
            max_tool_calls=echo.max_tool_calls,
            metadata=job.metadata,
            model=job.model,
            output=self.items() if output is None else output,
            parallel_tool_calls=echo.parallel_tool_calls,
            previous_response_id=echo.previous_response_id,
            prompt_cache_key=echo.prompt_cache_key,
            reasoning=Reasoning(echo.reasoning_effort, echo.reasoning_summary),
            safety_identifier=echo.safety_identifier,
            service_tier=_TIERS[job.service_class],
            store=echo.is_stored,
            temperature=job.sampling.temperature,
            text=self._text(),
            tool_choice=echo.tool_choice,
            tools=echo.tools,
            top_logprobs=job.sampling.logprobs or 0,
            top_p=job.sampling.top_p,
            usage=None if usage is None else ResponseUsage.of(usage, self.output.reasoning_tokens),
            user=echo.user,
        )

    def _text(self) -> dict[str, Any]:
        shape = self._echo.text_format or {"type": "text"}
        if shape["type"] == "json_schema" and self.job.constraint is not None:
            shape = {**shape, "schema": self.job.constraint.value}
        return {"format": shape}

    def _error(self) -> ResponseError | None:
        return None if self.failed is None else error_of(self.failed)


def error_of(failed: contract.Failed) -> ResponseError:
    """OpenAI's form of a failure in the log."""
    status = ApiError.of(failed).status
    code = "rate_limit_exceeded" if status == 429 else "server_error"
    if 400 <= status < 500 and status not in (408, 429):
        code = "invalid_prompt"
    return ResponseError(code, failed.message, failed.code, failed.param)
