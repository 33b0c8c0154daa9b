"""The lines of a batch: cutting them out of a file, and what the files get for them, pure.

Knows no Redis, no job and no clock.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import msgspec

from api.errors import ApiError
from api.schema.batch import BatchError, InputLine, LineError, LineResponse, OutputLine
from api.schema.decode import decode_body

BOM = b"\xef\xbb\xbf"
_decoder = msgspec.json.Decoder(InputLine)
_encode = msgspec.json.Encoder().encode


class Line(NamedTuple):
    """One line of a file, without its end.

    `number` counts from 1; `offset` is its first byte, `end` the next line's.
    """

    number: int
    offset: int
    end: int
    data: bytes

    @property
    def is_blank(self) -> bool:
        """True for a line that asks for nothing."""
        return not self.data.strip()


class LineTooLong(Exception):
    """A line exceeds the bound; what is behind it was not read."""

    def __init__(self, number: int, most: int) -> None:
        super().__init__(f"line {number} has more than {most} bytes")
        self.number = number
        self.most = most


async def split_lines(
    pieces: AsyncIterator[bytes], *, number: int, offset: int, max_bytes: int
) -> AsyncGenerator[Line, None]:
    r"""Cut a file into its lines, from line `number` at byte `offset` on. They end in \n or \r\n.

    A byte order mark at the start is dropped. Raises LineTooLong.
    """
    open_pieces: list[bytes] = []
    num_open = 0
    async for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for data in whole:
            line = _line(b"".join([*open_pieces, data]), number, offset)
            open_pieces, num_open = [], 0
            if len(line.data) > max_bytes:
                raise LineTooLong(number, max_bytes)
            yield line
            number, offset = number + 1, line.end
        open_pieces.append(rest)
        num_open += len(rest)
        if num_open > max_bytes:
            raise LineTooLong(number, max_bytes)
    if num_open:
        line = _line(b"".join(open_pieces), number, offset)
        yield line._replace(end=line.end - 1)  # it has no newline


def _line(data: bytes, number: int, offset: int) -> Line:
    end = offset + len(data) + 1
    return Line(number, offset, end, data.removeprefix(BOM) if offset == 0 else data)


def read_line(line: Line, endpoint: str) -> InputLine:
    """A line in the form that every line must have. Raises ApiError."""
    found = decode_body(_decoder, line.data)
    if found.method != "POST":
        raise ApiError("invalid_method", "The method of a line must be 'POST'.", "method")
    if found.url != endpoint:
        what = "The URL provided for this request does not match the batch endpoint."
        raise ApiError("url_mismatch", what, "url")
    if not bytes(found.body).lstrip().startswith(b"{"):
        raise ApiError("invalid_type", "The body of a line must be a JSON object.", "body")
    return found


def form_error(line: Line, error: ApiError) -> BatchError:
    """How a batch tells of a line in no form at all."""
    is_json = error.code != "invalid_json"
    message = error.message if is_json else "This line is not parseable as valid JSON."
    code = error.code if is_json else "invalid_json_line"
    return BatchError(code, message, line.number, error.param)


def double_id(number: int) -> BatchError:
    """How a batch tells of a line whose custom_id an earlier line has."""
    what = "The custom_id must be unique for each request in a batch; this one is a duplicate."
    return BatchError("duplicate_custom_id", what, number, "custom_id")


def output_line(batch_id: str, number: int, custom_id: str, response: LineResponse) -> bytes:
    """A line of a file, newline included: the endpoint answered, well or not."""
    return _written(OutputLine(_line_id(batch_id, number), custom_id, response, None))


def unanswered_line(batch_id: str, number: int, custom_id: str, error: LineError) -> bytes:
    """A line of the error file, newline included: the endpoint was not asked to the end."""
    return _written(OutputLine(_line_id(batch_id, number), custom_id, None, error))


def _line_id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}-{number}"


def _written(line: OutputLine) -> bytes:
    return _encode(line) + b"\n"
