"""Reads a batch's input file by lines, and checks their form. Knows no job and no queue."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from api.batch.lines import Line, LineTooLong, double_id, form_error, read_line, split_lines
from api.batch.state import Batch, BatchState, encode_errors
from api.batch.store import BatchStore
from api.errors import ApiError
from api.file_store import PIECE_BYTES, FileGone, FileStore
from api.schema.batch import BatchError

MAX_LINES = 50_000
MAX_ERRORS = 100  # a batch tells of so many and looks for no more
UNREADABLE = (FileGone, LineTooLong)  # what reading an input may raise
_GROUP = 512
_GROUP_BYTES = 256 << 10


class BatchInput:
    """Input files of batches. A line has at most `max_line_bytes`."""

    def __init__(self, store: BatchStore, files: FileStore, max_line_bytes: int) -> None:
        self._store = store
        self._files = files
        self._max_line_bytes = max_line_bytes

    def lines(self, batch: Batch, number: int, offset: int) -> AsyncGenerator[Line, None]:
        """The lines from `number` at `offset` on, blank ones too.

        Raises LineTooLong, and FileGone.
        """
        first, skip = divmod(offset, PIECE_BYTES)
        pieces = self._files.read(batch.input_file_id, batch.num_pieces, first)
        return split_lines(
            _without(pieces, skip), number=number, offset=offset, max_bytes=self._max_line_bytes
        )

    async def groups(
        self, batch: Batch, number: int, offset: int
    ) -> AsyncGenerator[list[Line], None]:
        """The same lines, a handful at a time."""
        group: list[Line] = []
        num_bytes = 0
        async for line in self.lines(batch, number, offset):
            group.append(line)
            num_bytes += len(line.data)
            if len(group) == _GROUP or num_bytes >= _GROUP_BYTES:
                yield group
                group, num_bytes = [], 0
        if group:
            yield group

    async def check(self, state: BatchState) -> None:
        """Go on with the check to its end: then the batch is in progress, or has failed."""
        try:
            async for group in self.groups(state.batch, state.line, state.offset):
                moved = await self._checked(state, group)
                if moved is None:
                    return
                state = moved
                if len(state.errors) >= MAX_ERRORS or _is_too_long(state):
                    break
        except UNREADABLE as error:
            await self._fail(state, [unreadable(error)])
        else:
            await self._judge(state)

    async def _checked(self, state: BatchState, group: Sequence[Line]) -> BatchState | None:
        """The state behind `group`; None if somebody else moved the batch on."""
        errors = [*state.errors, *await self._errors(state.batch, group)][:MAX_ERRORS]
        after = msgspec.structs.replace(
            state,
            line=group[-1].number + 1,
            offset=group[-1].end,
            total=state.total + sum(not line.is_blank for line in group),
            errors=errors,
        )
        fields: dict[str, str | int | bytes] = {
            "line": after.line,
            "offset": after.offset,
            "total": after.total,
            "errors": encode_errors(errors),
        }
        return after if await self._store.move(state, fields) else None

    async def _errors(self, batch: Batch, group: Sequence[Line]) -> list[BatchError]:
        errors: list[BatchError] = []
        ids: list[tuple[str, int]] = []
        for line in group:
            if line.is_blank:
                continue
            try:
                ids.append((read_line(line, batch.endpoint).custom_id, line.number))
            except ApiError as error:
                errors.append(form_error(line, error))
        errors += map(double_id, await self._store.note_ids(batch.id, ids))
        return sorted(errors, key=lambda error: error.line or 0)

    async def _judge(self, state: BatchState) -> None:
        if _is_too_long(state):
            what = f"The input file has more than {MAX_LINES} requests, or as many empty lines."
            await self._fail(state, [BatchError("too_many_tasks", what)])
        elif not state.total:
            await self._fail(state, [BatchError("empty_file", "The input file has no requests.")])
        elif state.errors:
            await self._fail(state, [])
        else:
            now_s = int(self._files.clock())
            begun: dict[str, str | int | bytes] = {
                "status": "in_progress",
                "in_progress_at": now_s,
                "line": 1,
                "offset": 0,
            }
            await self._store.move(state, begun)

    async def _fail(self, state: BatchState, errors: Sequence[BatchError]) -> None:
        await self._store.finish(state, "failed", errors=[*state.errors, *errors])


def unreadable(error: FileGone | LineTooLong) -> BatchError:
    """How a batch tells that it cannot read its input, or not any more."""
    if isinstance(error, FileGone):
        return BatchError("input_file_lost", error.message)
    return BatchError("line_too_long", f"A line has at most {error.most} bytes.", error.number)


def _is_too_long(state: BatchState) -> bool:
    return state.total > MAX_LINES or state.line > 2 * MAX_LINES


async def _without(pieces: AsyncIterator[bytes], skip: int) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece[skip:]
        skip = 0
