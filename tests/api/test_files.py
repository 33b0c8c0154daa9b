"""The Files endpoints, with the real openai client, the real app and a real Redis."""

import asyncio
import os
import time
import tracemalloc
from hashlib import sha256

import httpx2
import openai
import pytest

from api import file_store
from api.body import Body
from api.errors import ApiError
from api.file_store import PIECE_BYTES, UPLOAD_TTL_S, FileGone
from tests.api.batch_app import process

BOUNDARY = "xyz"


@pytest.fixture
async def app(redis_url):
    async with process(redis_url, max_body_bytes=1024) as app:
        yield app


def form(*parts, end=b"--xyz--\r\n"):
    """A multipart body of (disposition, content) parts."""
    blocks = [
        b"--xyz\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), content)
        for head, content in parts
    ]
    return b"".join(blocks) + end


PURPOSE = ('name="purpose"', b"batch")


async def post(app, body, **headers):
    """The raw reply to an upload of `body`, bytes or an async iterator of them."""
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
    transport = httpx2.ASGITransport(app=app.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/v1/files", content=body, headers=headers)


async def exhaust(pieces):
    async for _ in pieces:
        pass


async def keys(app):
    return sorted([key.decode() async for key in app.redis.scan_iter("file*")])


async def test_a_file_comes_back_as_it_was(app):
    data = os.urandom(2 * PIECE_BYTES + 12345)  # no text, and boundaries in odd places
    file = await app.client.files.create(file=("some.bin", data), purpose="user_data")
    assert (file.bytes, file.filename, file.purpose) == (len(data), "some.bin", "user_data")
    assert (file.object, file.status) == ("file", "processed")
    assert await app.client.files.retrieve(file.id) == file
    content = await app.client.files.content(file.id)
    assert content.content == data
    assert content.response.headers["content-disposition"] == 'attachment; filename="some.bin"'


async def test_no_command_carries_more_than_a_piece(app):
    file_id = await app.upload(bytes(2 * PIECE_BYTES + 1))
    pieces = await app.redis.lrange(f"file:{file_id}:data", 0, -1)
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, 1]


async def test_an_empty_file_is_a_file(app):
    reply = await post(app, form(PURPOSE, ('name="file"; filename="e"', b"")))
    assert (reply.status_code, reply.json()["bytes"]) == (200, 0)
    assert (await app.client.files.content(reply.json()["id"])).content == b""


async def test_a_deleted_file_is_gone(app):
    file_id = await app.upload(b"abc")
    assert (await app.client.files.delete(file_id)).deleted
    for call in (app.client.files.retrieve, app.client.files.content, app.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file_id)
    assert await keys(app) == []


async def test_files_are_listed_newest_first_in_pages(app):
    ids = []
    for i in range(5):
        app.now_s = lambda i=i: 1_000_000.0 + i / 100
        ids.append(await app.upload(b"x", f"{i}.jsonl"))
    await app.client.files.create(file=("other", b"x"), purpose="user_data")
    files = app.client.files
    assert [f.id async for f in files.list(purpose="batch", limit=2)] == ids[::-1]
    assert [f.id async for f in files.list(purpose="batch", limit=2, order="asc")] == ids
    page = await files.list(purpose="batch", limit=2)
    assert page.has_more
    assert (await files.list(after=ids[1], order="asc", limit=1)).data[0].id == ids[2]
    assert len((await files.list()).data) == 6


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=10001", "limit=0000000010001", "order=up"]
)
async def test_a_bad_query_is_refused(app, query):
    with pytest.raises(openai.BadRequestError):
        await app.client.files.list(extra_query=dict([query.split("=")]))


async def test_a_page_behind_an_unknown_file_is_not_found(app):
    with pytest.raises(openai.NotFoundError):
        await app.client.files.list(after="file-x")


@pytest.mark.parametrize("name", ['a"b\\c.jsonl', "naïve 数据.jsonl", "a b;c=d.jsonl", "x\r\ny"])
async def test_a_name_may_be_anything(app, name):
    file = await app.client.files.create(file=(name, b"x"), purpose="batch")
    assert file.filename == name.replace("\r", "_").replace("\n", "_")
    assert (await app.client.files.content(file.id)).content == b"x"


async def test_a_file_expires(app):
    expiry = {"anchor": "created_at", "seconds": 3600}
    file = await app.client.files.create(file=b"x", purpose="batch", expires_after=expiry)
    assert file.expires_at == file.created_at + 3600
    for key in (f"file:{file.id}", f"file:{file.id}:data"):
        assert 3500 < await app.redis.ttl(key) <= 3600
    other = await app.client.files.create(file=b"x", purpose="batch")
    assert other.expires_at == other.created_at + app.config.file_ttl_s


async def test_the_operator_bounds_how_long_files_live(redis_url):
    async with process(redis_url, file_ttl_s=7200) as app:
        expiry = {"anchor": "created_at", "seconds": 2_592_000}
        file = await app.client.files.create(file=b"x", purpose="batch", expires_after=expiry)
        assert file.expires_at == file.created_at + 7200


async def test_what_expired_is_not_listed_and_frees_its_room(redis_url):
    async with process(redis_url, max_stored_bytes=1500) as app:
        file_id = await app.upload(bytes(1000))
        await app.redis.delete(f"file:{file_id}", f"file:{file_id}:data")
        assert (await app.client.files.list()).data == []
        await app.upload(bytes(1000))


async def test_a_tenant_stores_no_more_than_it_may(redis_url):
    async with process(redis_url, max_stored_bytes=1500) as app:
        file_id = await app.upload(bytes(1000))
        with pytest.raises(openai.APIStatusError) as caught:
            await app.upload(bytes(501))
        assert (caught.value.status_code, caught.value.code) == (413, "storage_full")
        await app.upload(bytes(500))
        assert len([key for key in await keys(app) if key.endswith(":data")]) == 2
        await app.client.files.delete(file_id)
        await app.upload(bytes(1000))


async def test_a_tenant_uploads_no_more_files_than_one_upload_can_look_at(app, monkeypatch):
    monkeypatch.setattr(file_store, "MAX_FILES", 3)
    ids = [await app.upload(b"") for _ in range(3)]
    with pytest.raises(openai.APIStatusError) as caught:
        await app.upload(b"")
    assert (caught.value.status_code, caught.value.code) == (413, "storage_full")
    await app.redis.delete(f"file:{ids[0]}")  # as if it had expired
    await app.upload(b"")


FILE = ('name="file"; filename="f"', b"data")
BAD_FORMS = {
    "no file": (form(PURPOSE), "missing_required_parameter"),
    "no purpose": (form(FILE), "missing_required_parameter"),
    "unknown purpose": (form(FILE, ('name="purpose"', b"fun")), "invalid_value"),
    "two files": (form(FILE, FILE, PURPOSE), "invalid_value"),
    "no end": (form(FILE, PURPOSE, end=b""), "bad_request"),
    "no form": (b"hello", "bad_request"),
    "too many parts": (form(*[('name="x"', b"")] * 20, FILE, PURPOSE), "bad_request"),
    "a long field": (form(FILE, ('name="purpose"', bytes(5000))), "invalid_value"),
    "a name in no encoding": (
        b'--xyz\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\r\n--xyz--\r\n',
        "bad_request",
    ),
    "too short an expiry": (
        form(
            FILE,
            PURPOSE,
            ('name="expires_after[anchor]"', b"created_at"),
            ('name="expires_after[seconds]"', b"10"),
        ),
        "invalid_value",
    ),
}


@pytest.mark.parametrize(("body", "code"), BAD_FORMS.values(), ids=BAD_FORMS.keys())
async def test_a_bad_form_is_refused_and_leaves_nothing(app, body, code):
    reply = await post(app, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert await keys(app) == []


@pytest.mark.parametrize("kind", ["application/json", "", "multipart/form-data"])
async def test_another_content_type_is_refused(app, kind):
    reply = await post(app, form(FILE, PURPOSE), **{"content-type": kind})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(redis_url, is_declared):
    async with process(redis_url, max_file_bytes=600_000) as app:
        body = form(('name="file"; filename="f"', bytes(700_000)), PURPOSE)

        async def pieces():
            for start in range(0, len(body), 50_000):
                yield body[start : start + 50_000]

        reply = await post(app, body if is_declared else pieces())
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert await keys(app) == []
        fits = form(('name="file"; filename="f"', bytes(600_000)), PURPOSE)
        assert (await post(app, fits)).status_code == 200


async def upload_raw(app, *messages):
    """Drive the ASGI app by hand; returns the messages it sent. After the last one: silence."""
    waiting = list(messages)
    sent: list[dict[str, object]] = []

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=xyz")],
        "client": ("test", 1),
        "server": ("test", 80),
        "scheme": "http",
    }
    await app.app(scope, receive, send)
    return sent


FILE_HEAD = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'


def start_of_upload(num_pieces):
    bodies = [FILE_HEAD] + [bytes(PIECE_BYTES)] * num_pieces
    return [{"type": "http.request", "body": body, "more_body": True} for body in bodies]


async def num_unlinks(app):
    stats = await app.redis.info("commandstats")
    return stats.get("cmdstat_unlink", {"calls": 0})["calls"]


async def test_an_upload_that_is_cut_off_leaves_nothing(app):
    unlinked = await num_unlinks(app)
    await upload_raw(app, *start_of_upload(6), {"type": "http.disconnect"})
    assert await num_unlinks(app) == unlinked + 1  # there was something
    assert await keys(app) == []


async def test_an_upload_whose_process_dies_is_forgotten(app):
    task = asyncio.create_task(upload_raw(app, *start_of_upload(6)))

    async def has_begun():
        return bool(await keys(app))

    await app.until(has_begun, "the first piece is stored")
    (key,) = await keys(app)
    assert 0 < await app.redis.ttl(key) <= UPLOAD_TTL_S
    assert (await app.client.files.list()).data == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await keys(app) == []  # nor does it stay when only the request is given up


async def test_an_upload_that_stalls_is_given_up(redis_url):
    async with process(redis_url, read_timeout_s=0.2) as app:
        sent = await asyncio.wait_for(upload_raw(app, *start_of_upload(6)), 30)
        assert sent[0]["status"] == 408
        assert await keys(app) == []


async def test_a_body_that_trickles_is_too_slow_however_steady():
    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    started_s = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await exhaust(Body(receive, []).pieces(1 << 20, timeout_s=0.3))
    assert caught.value.code == "request_timeout"
    assert time.monotonic() - started_s < 30


async def test_a_piece_whose_reply_was_lost_is_stored_once(app):
    upload = app.parts.files.upload("")
    script = app.parts.files.append_script

    async def twice(**arguments):
        await script(**arguments)
        return await script(**arguments)

    app.parts.files.append_script = twice
    data = os.urandom(2 * PIECE_BYTES)
    await upload.write(data)
    file = await upload.commit(purpose="batch", filename="f", ttl_s=60)
    assert (await app.client.files.content(file.id)).content == data


async def test_a_commit_finds_out_that_pieces_are_gone(app):
    upload = app.parts.files.upload("")
    await upload.write(bytes(PIECE_BYTES))
    await app.redis.flushall()
    with pytest.raises(ApiError) as caught:
        await upload.commit(purpose="batch", filename="f", ttl_s=60)
    assert caught.value.status == 503


async def test_a_file_that_lost_pieces_is_not_short_in_silence(app):
    file_id = await app.upload(bytes(3 * PIECE_BYTES))
    await app.redis.ltrim(f"file:{file_id}:data", 0, 1)
    with pytest.raises(FileGone):
        await exhaust(app.parts.files.read(file_id, 3))


async def test_a_large_upload_and_download_keep_the_memory_flat(app):
    size = 24 << 20
    tail = b"\r\n" + form(PURPOSE)

    async def pieces():
        yield FILE_HEAD
        for _ in range(size // 65536):
            yield bytes(65536)
        yield tail

    tracemalloc.start()
    try:
        reply = await post(app, pieces())
        assert reply.json()["bytes"] == size
        num_bytes = 0
        async for data in app.parts.files.read(reply.json()["id"], size // PIECE_BYTES):
            num_bytes += len(data)
        assert num_bytes == size
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


KEYS_FILE = """
[[keys]]
hash = "sha256:%s"
tenant = "alice"

[[keys]]
hash = "sha256:%s"
tenant = "bob"
"""


async def test_a_tenant_sees_only_its_own_files(redis_url, tmp_path):
    path = tmp_path / "keys.toml"
    hashes = [sha256(f"key-of-{name}-0123456789".encode()).hexdigest() for name in ("alice", "bob")]
    path.write_text(KEYS_FILE % tuple(hashes))
    async with process(redis_url, api_keys_file=str(path)) as app:
        alice = app.client.with_options(api_key="key-of-alice-0123456789")
        bob = app.client.with_options(api_key="key-of-bob-0123456789")
        file = await alice.files.create(file=b"secret", purpose="batch")
        for call in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError) as caught:
                await call(file.id)
            assert "secret" not in str(caught.value)
        assert (await bob.files.list()).data == []
        with pytest.raises(openai.NotFoundError):
            await bob.files.list(after=file.id)
        assert (await alice.files.content(file.id)).content == b"secret"
