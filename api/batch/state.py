"""A batch as Redis has it, pure: its record, how far it is, and OpenAI's object of both.

Knows no Redis and no clock.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from api.schema.batch import (
    BatchError,
    BatchErrors,
    BatchObject,
    BatchUsage,
    InputDetails,
    OutputDetails,
    RequestCounts,
    Status,
)

# Why a batch ends before all its lines were answered; "" when they were, or for all we know will.
Ending = Literal["", "cancelled", "expired", "failed"]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch was created as. `output_ttl_s` 0: as long as any file."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    num_pieces: int  # of the input file
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_ttl_s: int = 0
    webhook: str = ""  # who is told of the end
    trace: dict[str, str] = {}  # W3C headers: the span of the request that made it


class OpenLine(msgspec.Struct, frozen=True, array_like=True):
    """A line whose job has not ended: enough to make the job again, or to give it up."""

    custom_id: str
    offset: int
    queue: str


class BatchState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    `line` and `offset` are the next line to check or to run; `taken` of `total` lines were given to
    the queue or have failed without it; `model` is what the last of them asked for.
    """

    batch: Batch
    status: Status
    ending: Ending = ""
    line: int = 1
    offset: int = 0
    total: int = 0
    taken: int = 0
    model: str = ""
    completed: int = 0
    failed: int = 0
    output_bytes: int = 0
    errors_bytes: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    errors: list[BatchError] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    is_told: bool = False

    def view(self) -> BatchObject:
        """OpenAI's batch."""
        batch = self.batch
        return BatchObject(
            id=batch.id,
            endpoint=batch.endpoint,
            errors=BatchErrors(self.errors) if self.status == "failed" else None,
            input_file_id=batch.input_file_id,
            completion_window=batch.completion_window,
            status=self.status,
            output_file_id=self.output_file_id,
            error_file_id=self.error_file_id,
            created_at=batch.created_at,
            in_progress_at=self.in_progress_at,
            expires_at=batch.expires_at,
            finalizing_at=self.finalizing_at,
            completed_at=self.completed_at,
            failed_at=self.failed_at,
            expired_at=self.expired_at,
            cancelling_at=self.cancelling_at,
            cancelled_at=self.cancelled_at,
            request_counts=RequestCounts(self.total, self.completed, self.failed),
            usage=self._usage(),
            metadata=batch.metadata,
        )

    def _usage(self) -> BatchUsage:
        return BatchUsage(
            self.prompt_tokens,
            InputDetails(self.cached_tokens),
            self.completion_tokens,
            OutputDetails(),
            self.prompt_tokens + self.completion_tokens,
        )


_batch_decoder = msgspec.msgpack.Decoder(Batch)
_errors_decoder = msgspec.msgpack.Decoder(list[BatchError])
encode_errors = msgspec.msgpack.Encoder().encode
decode_open = msgspec.msgpack.Decoder(OpenLine).decode


def state_of(fields: Mapping[bytes, bytes]) -> BatchState | None:
    """The state in a batch's hash; None for no hash."""
    if b"record" not in fields:
        return None
    texts = {k.decode(): v.decode() for k, v in fields.items() if k not in (b"record", b"errors")}
    errors = _errors_decoder.decode(fields[b"errors"]) if b"errors" in fields else []
    values = {**texts, "batch": _batch_decoder.decode(fields[b"record"]), "errors": errors}
    return msgspec.convert(values, BatchState, strict=False)
