"""Some lines of a batch on their way to the queue: which become jobs, which fail at once, pure.

Knows no Redis.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from api.batch.jobs import Endpoint, Prepared, Ticket
from api.batch.lines import Line, read_line
from api.batch.results import refused
from api.batch.state import Batch, BatchState, OpenLine
from api.batch.store import job_id_of
from api.errors import ApiError

MAX_LINES = 32  # given to the queue before the batch is looked at again


class _Asked(msgspec.Struct):
    model: str = ""


_asked_decoder = msgspec.json.Decoder(_Asked)


class Work(NamedTuple):
    """A line, and what its endpoint makes of it."""

    line: Line
    custom_id: str
    model: str  # that it asks for
    result: Prepared | ApiError


async def prepare(endpoints: Mapping[str, Endpoint], batch: Batch, line: Line) -> Work:
    """Make a line's job. The line's form was checked before."""
    form = read_line(line, batch.endpoint)
    body = bytes(form.body)
    job_id = job_id_of(batch.id, line.number)
    ticket = Ticket(job_id, batch.tenant, batch.id, line.number, batch.endpoint, trace=batch.trace)
    result: Prepared | ApiError
    try:
        result = await endpoints[batch.endpoint].prepare(body, ticket)
    except ApiError as error:
        result = error
    return Work(line, form.custom_id, _model_of(body), result)


def must_wait(error: ApiError, work: Work, known_model: str) -> bool:
    """True if the same line may be welcome later.

    A model that served the line before is being restarted, rather than unknown.
    """
    is_back_soon = error.code == "model_not_found" and work.model == known_model != ""
    return error.status in (429, 503) or is_back_soon


class Slice:
    """Lines from where a batch is, `room` jobs at most."""

    def __init__(self, state: BatchState, room: int) -> None:
        self.after = state  # where the batch is behind these lines
        self.jobs: list[Prepared] = []
        self.opened: dict[int, OpenLine] = {}
        self.failed: list[bytes] = []
        self.is_cut = False  # the next line has to wait
        self._most = min(room, MAX_LINES)

    @property
    def is_full(self) -> bool:
        """True if no more lines should be added."""
        return max(len(self.opened), len(self.failed)) >= self._most

    @property
    def place(self) -> dict[str, str | int]:
        """The batch's fields behind these lines."""
        after = self.after
        return {
            "line": after.line,
            "offset": after.offset,
            "taken": after.taken,
            "model": after.model,
        }

    def pass_over(self, line: Line) -> None:
        """Go behind a line that asks for nothing."""
        self.after = msgspec.structs.replace(self.after, line=line.number + 1, offset=line.end)

    def add(self, work: Work) -> bool:
        """Take a line in; False if it has to wait."""
        line, result = work.line, work.result
        if isinstance(result, ApiError):
            if must_wait(result, work, self.after.model):
                return False
            batch_id = self.after.batch.id
            self.failed.append(refused(batch_id, line.number, work.custom_id, result))
        else:
            self.jobs.append(result)
            self.opened[line.number] = OpenLine(work.custom_id, line.offset, result.queue)
            self.after = msgspec.structs.replace(self.after, model=work.model)
        self.after = msgspec.structs.replace(self.after, taken=self.after.taken + 1)
        self.pass_over(line)
        return True


def _model_of(body: bytes) -> str:
    try:
        return _asked_decoder.decode(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""  # its endpoint says what is wrong with it
