"""Files in Redis: pieces in a list, a record beside it, each tenant's by creation.

Knows no HTTP and no form. Every call may raise ApiError `queue_unavailable`.
"""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from api.admission import conflict
from api.call import Call
from api.errors import ApiError
from api.idempotency import NO_KEY, Once
from api.schema.file import FileObject
from workers import contract

PIECE_BYTES = 256 << 10  # no command is larger
MAX_PIECES = 256  # read at a time, where they are small
MAX_FILES = 10_000  # that a tenant uploads: each upload looks at all of them
UPLOAD_TTL_S = 600  # how long an upload lives that nobody goes on with
_SCAN = 256  # records looked at in one go


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file's record. `num_pieces` pieces; those of an upload are PIECE_BYTES but the last."""

    tenant: str
    view: FileObject
    num_pieces: int
    created_ms: int


class FileGone(ApiError):
    """A file that was there has lost pieces: it expired, or was deleted while it was read."""

    def __init__(self, file_id: str) -> None:
        super().__init__("not_found", f"The content of the file '{file_id}' is gone.")


class Page(NamedTuple):
    """Some of a tenant's files."""

    files: list[FileObject]
    has_more: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredFile).decode


class FileStore:
    """The files of all tenants.

    A file lives for `ttl_s` at most; a tenant stores up to `max_stored_bytes`. `check_room` raises
    ApiError while Redis has no room for more.
    """

    def __init__(
        self,
        redis: Redis,
        call: Call,
        *,
        ttl_s: int,
        max_stored_bytes: int,
        check_room: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ttl_s = ttl_s
        self.clock = clock
        self.redis = redis
        self.call = call
        self.check_room = check_room
        self.max_stored_bytes = max_stored_bytes
        self.append_script, self.commit_script, self.drop_script, self._delete_script = (
            redis.register_script(contract.load_script(f"file_{name}"))
            for name in ("append", "commit", "drop", "delete")
        )

    def upload(self, tenant: str, *, is_kept: bool = True) -> "Upload":
        """A file to be written; it is nowhere to be seen until it is committed.

        One that is not kept can only turn out to be a file that is there already.
        """
        return Upload(self, tenant, is_kept)

    def record(
        self, tenant: str, *, purpose: str, filename: str, size: int, num_pieces: int, ttl_s: int
    ) -> StoredFile:
        """The record of a new file, which does not exist by that."""
        created_ms = int(self.clock() * 1000)
        created_s = created_ms // 1000
        view = FileObject(
            id=new_file_id(),
            bytes=size,
            created_at=created_s,
            filename=filename,
            purpose=purpose,
            expires_at=created_s + min(ttl_s, self.ttl_s),
        )
        return StoredFile(tenant=tenant, view=view, num_pieces=num_pieces, created_ms=created_ms)

    async def get(self, tenant: str, file_id: str) -> StoredFile | None:
        """A file of this tenant; None if it has none of that id."""
        (file,) = await self._read([file_id])
        return file if file is not None and file.tenant == tenant else None

    async def page(
        self, tenant: str, *, purpose: str | None, limit: int, after: str | None, newest_first: bool
    ) -> Page:
        """The tenant's files behind `after`. Raises ApiError `not_found` for an unknown one."""
        start = 0 if after is None else await self._place(tenant, after, newest_first) + 1
        files: list[FileObject] = []
        while len(files) <= limit:
            ids = await self._ids(tenant, start, newest_first)
            found = [f.view for f in await self._read(ids) if f is not None and f.tenant == tenant]
            files += [f for f in found if purpose is None or f.purpose == purpose]
            start += len(ids)
            if len(ids) < _SCAN:
                break
        return Page(files[:limit], len(files) > limit)

    async def delete(self, tenant: str, file_id: str) -> bool:
        """Forget a file of this tenant; False if it has none of that id."""
        if await self.get(tenant, file_id) is None:
            return False
        await self.call(lambda: self._delete_script(keys=[], args=[file_id, tenant]))
        return True  # whoever deleted it: it is gone

    async def read(self, file_id: str, num_pieces: int, first: int = 0) -> AsyncIterator[bytes]:
        """The pieces from number `first` on. Raises FileGone if some are not there."""
        size = 1  # grows where pieces are small
        while first < num_pieces:
            last = min(first + size, num_pieces) - 1
            pieces = await self._pieces(file_id, first, last)
            yield b"".join(pieces)
            first = last + 1
            room = PIECE_BYTES * len(pieces) // max(1, sum(map(len, pieces)))
            size = max(1, min(room, 2 * size, MAX_PIECES))

    async def _pieces(self, file_id: str, first: int, last: int) -> Sequence[bytes]:
        async def read() -> Sequence[bytes]:
            pieces: Sequence[bytes] = await self.redis.lrange(data_key(file_id), first, last)  # type: ignore[misc]
            return pieces

        pieces = await self.call(read)
        if len(pieces) != last - first + 1:
            raise FileGone(file_id)
        return pieces

    async def _read(self, ids: Sequence[str]) -> list[StoredFile | None]:
        if not ids:
            return []
        records = await self.call(lambda: self.redis.mget([file_key(i) for i in ids]))
        return [None if record is None else _decode(record) for record in records]

    async def _ids(self, tenant: str, start: int, newest_first: bool) -> list[str]:
        end = start + _SCAN - 1
        ids = await self.call(
            lambda: self.redis.zrange(files_key(tenant), start, end, desc=newest_first)
        )
        return [file_id.decode() for file_id in ids]

    async def _place(self, tenant: str, file_id: str, newest_first: bool) -> int:
        rank = self.redis.zrevrank if newest_first else self.redis.zrank
        place = await self.call(lambda: rank(files_key(tenant), file_id))
        if place is None:
            raise missing(file_id, "after")
        return int(place)


class Upload:
    """A file on its way in. Ends with `commit` or `discard`."""

    def __init__(self, store: FileStore, tenant: str, is_kept: bool) -> None:
        self.size = 0
        self.id = new_file_id()
        self._store = store
        self._tenant = tenant
        self._is_kept = is_kept
        self._hash = hashlib.sha256()
        self._num_pieces = 0
        self._rest = bytearray()

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Add `data`; what makes a piece is stored at once."""
        self.size += len(data)
        self._hash.update(data)
        self._rest += data
        while len(self._rest) >= PIECE_BYTES:
            await self._flush()

    async def commit(
        self, *, purpose: str, filename: str, ttl_s: int, once: Once = NO_KEY
    ) -> FileObject:
        """Make it a file; returns it, or the one that the same request made before.

        Raises ApiError, also when the tenant stores too much.
        """
        if self._rest:
            await self._flush()
        record = self._store.record(
            self._tenant,
            purpose=purpose,
            filename=filename,
            size=self.size,
            num_pieces=self._num_pieces,
            ttl_s=ttl_s,
        )
        record = msgspec.structs.replace(
            record, view=msgspec.structs.replace(record.view, id=self.id)
        )
        bounds = [self._num_pieces, self._store.max_stored_bytes, MAX_FILES]
        args = [*commit_args(record), *bounds, once.digest, once.ttl_ms]
        keys = [once.record]
        done = await self._store.call(lambda: self._store.commit_script(keys=keys, args=args))
        if isinstance(done, bytes):
            return await self._earlier(done.decode())
        self._check(done)
        return record.view

    async def _earlier(self, file_id: str) -> FileObject:
        file = await self._store.get(self._tenant, file_id)
        if file is None:
            raise missing(file_id)
        return file.view

    def _check(self, done: int) -> None:
        if done == -1:
            what = f"Your files would take more than {self._store.max_stored_bytes} bytes."
            raise ApiError("storage_full", f"{what} Delete some.")
        if done == -2:
            raise ApiError("storage_full", f"You have {MAX_FILES} files already. Delete some.")
        if done == -3:
            raise conflict()
        if done == 0:
            raise _lost()

    async def discard(self) -> None:
        """Leave nothing behind but a file whose commit nobody heard of."""
        self._rest.clear()
        await self._store.call(lambda: self._store.drop_script(keys=[], args=[self.id]))

    async def _flush(self) -> None:
        if self._is_kept:
            await self._append(bytes(self._rest[:PIECE_BYTES]))
        del self._rest[:PIECE_BYTES]
        self._num_pieces += 1

    async def _append(self, piece: bytes) -> None:
        await self._store.check_room()
        keys = [data_key(self.id)]
        args: list[Any] = [self._num_pieces, piece, UPLOAD_TTL_S * 1000]
        if not await self._store.call(lambda: self._store.append_script(keys=keys, args=args)):
            raise _lost()


def commit_args(file: StoredFile) -> list[Any]:
    """What the scripts need to keep a file: id, record, tenant, created ms, bytes, ttl ms."""
    view = file.view
    ttl_ms = (view.expires_at - view.created_at) * 1000
    return [view.id, _encode(file), file.tenant, file.created_ms, view.bytes, ttl_ms]


def new_file_id() -> str:
    """An id in OpenAI's form."""
    return f"file-{uuid.uuid4().hex}"


def missing(file_id: str, param: str | None = None) -> ApiError:
    """The answer to an id that names no file of the tenant."""
    return ApiError("not_found", f"There is no file '{file_id}', or it has expired.", param)


def _lost() -> ApiError:
    return ApiError("queue_unavailable", "A part of the upload was lost; try again.")


def file_key(file_id: str) -> str:
    """STRING: the file's record."""
    return f"file:{file_id}"


def data_key(file_id: str) -> str:
    """LIST: the file's pieces."""
    return f"file:{file_id}:data"


def files_key(tenant: str) -> str:
    """ZSET: ids of a tenant's files by creation, in ms."""
    return f"files:{tenant}"
