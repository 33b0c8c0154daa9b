"""The JSON of the Files endpoints. Knows no HTTP and no store."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# What clients may upload files for; the batches read `batch`, the others are kept for them.
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]

MAX_PAGE = 10_000


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int
    object: str = "file"
    status: str = "processed"
    status_details: str | None = None


class FileList(msgspec.Struct, frozen=True):
    """A page of files."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class FileDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    deleted: bool = True
    object: str = "file"


class ExpiresAfter(msgspec.Struct, frozen=True):
    """How long a file is kept: from its creation on, in seconds."""

    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]
    anchor: Literal["created_at"]


class UploadFields(msgspec.Struct, frozen=True):
    """The fields that come with an upload."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None
