"""OpenAI's objects of stored chat completions. Knows no job."""

import msgspec

from api.schema.response import Completion


class StoredList(msgspec.Struct, frozen=True):
    """A page of them."""

    data: list[Completion]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class StoredDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: str = "chat.completion.deleted"
    deleted: bool = True
