"""How a batch ends: what is left of it is given up, and what there is becomes files.

Knows no queue's inside and no HTTP.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

import msgspec

from api.batch.input import UNREADABLE, BatchInput
from api.batch.lines import Line, read_line
from api.batch.results import BatchResults, Survey, unanswered
from api.batch.state import BatchState, Ending
from api.batch.store import BatchStore, EndFile, job_id_of
from api.file_store import FileStore, StoredFile
from api.schema.batch import Status

POLL_S = 1.0
CANCEL_GRACE_S = 600.0  # lines that do not end for this long are left behind

# Gives up a job, by id and queue. It may be called again and again.
CancelJob = Callable[[str, str], Awaitable[None]]
OnEnd = Callable[[BatchState], Awaitable[None]]

_STATUS: Mapping[Ending, Status] = {
    "": "completed",
    "cancelled": "cancelled",
    "expired": "expired",
    "failed": "failed",
}


class BatchEnd:
    """Batches that are cancelling or finalizing. `on_end` hears of an end, at least once."""

    def __init__(
        self,
        store: BatchStore,
        files: FileStore,
        source: BatchInput,
        results: BatchResults,
        cancel: CancelJob,
        on_end: OnEnd,
    ) -> None:
        self._store = store
        self._files = files
        self._input = source
        self._results = results
        self._cancel = cancel
        self._on_end = on_end

    async def go_on(self, state: BatchState) -> float:
        """One step towards the end; returns the seconds until the next one."""
        if state.taken < state.total:
            await self._skip(state)
            return 0.0
        survey = await self._results.survey(state.batch.id)
        if survey.num_open:
            await self._give_up(state, survey)
            return POLL_S
        current = await self._store.state(state.batch.id)  # with what the survey noted
        if current is not None and current.status == state.status:
            await self._store.finish(current, _STATUS[current.ending], self._end_files(current))
        return 0.0

    async def tell(self, state: BatchState) -> None:
        """Tell of an end, unless that was done."""
        if not state.is_told:
            await self._on_end(state)
            await self._store.note_told(state.batch.id)

    async def _skip(self, state: BatchState) -> None:
        """Note that the lines which are left are not answered."""
        groups = self._input.groups(state.batch, state.line, state.offset)
        try:
            async with aclosing(groups):
                async for group in groups:
                    lines = [line for line in group if not line.is_blank]
                    after = msgspec.structs.replace(
                        state,
                        line=group[-1].number + 1,
                        offset=group[-1].end,
                        taken=state.taken + len(lines),
                    )
                    if not await self._skip_group(state, after, lines):
                        return
                    state = after
        except UNREADABLE:
            await self._store.move(state, {"taken": state.total})

    async def _skip_group(self, before: BatchState, after: BatchState, lines: list[Line]) -> bool:
        endpoint = before.batch.endpoint
        failed = [unanswered(before, n.number, read_line(n, endpoint).custom_id) for n in lines]
        place = {"line": after.line, "offset": after.offset, "taken": after.taken}
        return await self._store.move(before, place, failed=failed)

    async def _give_up(self, state: BatchState, survey: Survey) -> None:
        since_s = state.cancelling_at or state.finalizing_at or 0
        is_late = self._files.clock() - since_s > CANCEL_GRACE_S
        for number, line in survey.missing.items():
            await self._results.give_up(state, number, line)
        for number, line in survey.running.items():
            await self._cancel(job_id_of(state.batch.id, number), line.queue)
            if is_late:
                await self._results.give_up(state, number, line)

    def _end_files(self, state: BatchState) -> list[EndFile]:
        """A file for each list that has lines: a piece is a line."""
        lists = (
            ("output", "output_file_id", state.output_bytes, state.completed),
            ("errors", "error_file_id", state.errors_bytes, state.failed),
        )
        return [
            EndFile(name, field, self._record(state, name, size, num_lines))
            for name, field, size, num_lines in lists
            if num_lines
        ]

    def _record(self, state: BatchState, name: str, size: int, num_lines: int) -> StoredFile:
        batch = state.batch
        return self._files.record(
            batch.tenant,
            purpose="batch_output",
            filename=f"{batch.id}_{name}.jsonl",
            size=size,
            num_pieces=num_lines,
            ttl_s=batch.output_ttl_s or self._files.ttl_s,
        )
