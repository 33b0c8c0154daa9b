"""The JSON of batches: the requests, the batch object, and the lines of input and output files.

Knows no HTTP and no store.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.schema.sampling import Metadata

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")

MAX_PAGE = 100
DEFAULT_PAGE = 20
WINDOW_S = 24 * 3600

_CustomId = Annotated[str, Meta(min_length=1, max_length=512)]


class OutputExpiresAfter(msgspec.Struct, frozen=True):
    """How long the output files are kept: from their creation on, in seconds."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class CreateBatch(msgspec.Struct, frozen=True):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None


class InputLine(msgspec.Struct, frozen=True):
    """A line of an input file; its body is read when its turn comes."""

    custom_id: _CustomId
    method: str
    url: str
    body: msgspec.Raw


class LineResponse(msgspec.Struct, frozen=True):
    """What the endpoint answered to a line."""

    status_code: int
    request_id: str
    body: Any


class LineError(msgspec.Struct, frozen=True):
    """Why a line was not answered at all."""

    code: str
    message: str


class OutputLine(msgspec.Struct, frozen=True):
    """A line of an output or error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with an input file; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    """Why a batch failed."""

    data: list[BatchError]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(msgspec.Struct, frozen=True):
    """Where the input tokens came from."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """What the output tokens were for."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of all answered lines."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's batch."""

    id: str
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    object: str = "batch"


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches."""

    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"
