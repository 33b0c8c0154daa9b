"""A multipart body as parts that are read while they arrive. Knows no field and no route.

Falcon parses; what it gets is our counted and timed body instead of the server's.
"""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, cast

from falcon.asgi.multipart import BodyPart
from falcon.media.multipart import MultipartFormHandler, MultipartParseOptions
from falcon.typing import AsyncReadableIO

from api.errors import ApiError

MAX_PARTS = 16
MAX_TEXT_BYTES = 4096
MAX_FILENAME = 256
# How browsers and httpx write what cannot stand in a quoted string (HTML, form submission).
_ESCAPES = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))


class Part(NamedTuple):
    """One part of a form; `filename` is empty for a plain field. Read it before the next one."""

    name: str
    filename: str
    body: BodyPart

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content as it arrives."""
        async for piece in self.body.stream:
            yield piece

    async def text(self) -> str:
        """The content of a plain field. Raises ApiError."""
        data = await self.body.stream.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise ApiError("invalid_value", f"'{self.name}' is too long.", self.name)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ApiError("invalid_value", f"'{self.name}' is not UTF-8.", self.name) from error


async def read_parts(body: AsyncIterator[bytes], content_type: str) -> AsyncIterator[Part]:
    """The parts of a `multipart/form-data` body.

    Raises ApiError, or Falcon's own error for a malformed form: also when it lacks its end.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        what = "The request must be a form: multipart/form-data with 'file' and 'purpose'."
        raise ApiError("bad_request", what)
    options = MultipartParseOptions()
    options.max_body_part_count = MAX_PARTS
    handler = MultipartFormHandler(options)
    # It reads any asynchronous iterator of bytes.
    form = await handler.deserialize_async(cast(AsyncReadableIO, body), content_type, None)
    async for part in form:
        yield _named(part)


def _named(part: Any) -> Part:
    try:
        return Part(part.name or "", _clean(part.filename or ""), part)
    except UnicodeDecodeError as error:
        raise ApiError("bad_request", "The name of a form field is not UTF-8.") from error


def _clean(filename: str) -> str:
    for escape, char in _ESCAPES:
        filename = filename.replace(escape, char)
    return "".join(c if c.isprintable() else "_" for c in filename[:MAX_FILENAME])
