"""Cutting a file into lines, and the form that each must have. No Redis."""

import json

import pytest

from api.batch.lines import LineTooLong, read_line, split_lines
from api.errors import ApiError
from tests.api.batch_app import CHAT, line


async def lines_of(data, size, *, number=1, offset=0, max_bytes=1000):
    async def pieces():
        for start in range(offset, len(data), size):
            yield data[start : start + size]

    found = split_lines(pieces(), number=number, offset=offset, max_bytes=max_bytes)
    return [item async for item in found]


FILE = b"\xef\xbb\xbfone\r\n\n  \ntwo\nthree\r\n\r\nfour"


@pytest.mark.parametrize("size", range(1, len(FILE) + 1))
async def test_lines_do_not_depend_on_how_the_file_arrives(size):
    lines = await lines_of(FILE, size)
    assert [(n.number, n.data.strip()) for n in lines if not n.is_blank] == [
        (1, b"one"),
        (4, b"two"),
        (5, b"three"),
        (7, b"four"),
    ]
    assert lines[-1].end == len(FILE)


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_reading_goes_on_at_any_line(size):
    lines = await lines_of(FILE, size)
    for place in lines:
        rest = await lines_of(FILE, size, number=place.number, offset=place.offset)
        assert rest == lines[place.number - 1 :]


async def test_a_byte_order_mark_is_one_at_the_start_only():
    lines = await lines_of(b"a\n\xef\xbb\xbfb\n", 100)
    assert [item.data for item in lines] == [b"a", b"\xef\xbb\xbfb"]


@pytest.mark.parametrize("data", [b"ok\n" + b"x" * 11, b"ok\n" + b"x" * 11 + b"\nok\n"])
@pytest.mark.parametrize("size", [1, 4, 100])
async def test_a_line_that_is_too_long_is_refused_by_its_number(data, size):
    with pytest.raises(LineTooLong) as caught:
        await lines_of(data, size, max_bytes=10)
    assert caught.value.number == 2


async def test_a_line_of_just_the_bound_is_taken():
    assert len(await lines_of(b"x" * 10 + b"\n" + b"y" * 10, 3, max_bytes=10)) == 2


async def read(text):
    data = text.encode() if isinstance(text, str) else text
    (found,) = await lines_of(data, 1 << 20, max_bytes=1 << 20)
    return read_line(found, CHAT)


async def test_a_good_line_is_read():
    found = await read(line("ä-1"))
    assert (found.custom_id, json.loads(bytes(found.body))["model"]) == ("ä-1", "m")


BAD = {
    "no JSON": ("{", "invalid_json", None),
    "no object": ("[]", "invalid_type", None),
    "no custom_id": (json.dumps({"method": "POST"}), "missing_required_parameter", "custom_id"),
    "empty custom_id": (line(""), "invalid_value", "custom_id"),
    "long custom_id": (line("x" * 513), "invalid_value", "custom_id"),
    "a number as custom_id": (line(1), "invalid_type", "custom_id"),  # type: ignore[arg-type]
    "another method": (line("a", method="GET"), "invalid_method", "method"),
    "another url": (line("a", url="/v1/completions"), "url_mismatch", "url"),
    "no body": (line("a").replace('"body"', '"rump"'), "missing_required_parameter", "body"),
    "a body in quotes": (
        '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": "{}"}',
        "invalid_type",
        "body",
    ),
    "broken text": (b'{"custom_id": "\xff"}', "invalid_json", None),
    "too deep": ('{"body":' + "[" * 100_000, "invalid_json", None),
}


@pytest.mark.parametrize(("text", "code", "param"), BAD.values(), ids=BAD.keys())
async def test_a_line_in_no_form_says_what_is_wrong(text, code, param):
    with pytest.raises(ApiError) as caught:
        await read(text)
    assert (caught.value.code, caught.value.param) == (code, param)
