"""The Files endpoints: upload, list, look up, read, delete. Knows no batch and no key in Redis."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from api.config import ApiConfig
from api.errors import ApiError
from api.file_store import FileStore, StoredFile, Upload, missing
from api.generation import body_of, send_json
from api.idempotency import KnownKeys, tell_earlier
from api.multipart import Part, read_parts
from api.params import is_newest_first, limit_of
from api.schema.decode import invalid
from api.schema.file import MAX_PAGE, FileDeleted, FileList, UploadFields
from api.wishes import digest_of, read_key

FORM_BYTES = 64 << 10  # what a form may have beside the file
_EXPIRES_AFTER = "expires_after"


class Files:
    """/v1/files and what is under it."""

    def __init__(self, store: FileStore, keys: KnownKeys, config: ApiConfig) -> None:
        self._store = store
        self._keys = keys
        self._max_bytes = config.max_file_bytes
        self._timeout_s = config.read_timeout_s

    async def on_post(self, req: Request, resp: Response) -> None:
        """Store the upload while it arrives; what a known Idempotency-Key comes with is only read,
        to see that it is the same.
        """
        tenant, key = req.context.tenant.name, read_key(req.get_header)
        is_known = await self._keys.is_taken(tenant, key)
        upload = self._store.upload(tenant, is_kept=not is_known)
        try:
            filename, fields = await self._receive(req, upload)
            # Each try to send a form separates its parts in another way.
            form = msgspec.msgpack.encode((filename, fields, upload.digest))
            once = self._keys.once(tenant, key, digest_of(req.path, tenant, form))
            ttl_s = self._store.ttl_s
            if fields.expires_after is not None:
                ttl_s = fields.expires_after.seconds
            view = await upload.commit(
                purpose=fields.purpose, filename=filename, ttl_s=ttl_s, once=once
            )
        except BaseException:
            await _discard(upload)
            raise
        if view.id != upload.id:
            tell_earlier(resp)
        send_json(resp, view)

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the tenant's files, newest first unless `order=asc`."""
        limit = limit_of(req, MAX_PAGE, MAX_PAGE)
        page = await self._store.page(
            req.context.tenant.name,
            purpose=req.get_param("purpose"),
            limit=limit,
            after=req.get_param("after"),
            newest_first=is_newest_first(req),
        )
        ids = [file.id for file in page.files]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        send_json(resp, FileList(page.files, first, last, page.has_more))

    async def on_get_one(self, req: Request, resp: Response, file_id: str) -> None:
        """Describe a file."""
        send_json(resp, (await self._find(req, file_id)).view)

    async def on_delete_one(self, req: Request, resp: Response, file_id: str) -> None:
        """Delete a file; a batch that reads it goes on."""
        if not await self._store.delete(req.context.tenant.name, file_id):
            raise missing(file_id)
        send_json(resp, FileDeleted(file_id))

    async def on_get_content(self, req: Request, resp: Response, file_id: str) -> None:
        """Send what is in a file, piece by piece."""
        file = await self._find(req, file_id)
        resp.content_type = "application/octet-stream"
        resp.content_length = file.view.bytes
        resp.downloadable_as = file.view.filename.replace('"', "'").replace("\\", "_")
        resp.stream = self._content(req, file)

    async def _content(self, req: Request, file: StoredFile) -> AsyncIterator[bytes]:
        leavers: list[bool] = []
        body_of(req).watch(lambda: leavers.append(True))
        async for data in self._store.read(file.view.id, file.num_pieces):
            if leavers:
                return
            yield data

    async def _find(self, req: Request, file_id: str) -> StoredFile:
        file = await self._store.get(req.context.tenant.name, file_id)
        if file is None:
            raise missing(file_id)
        return file

    async def _receive(self, req: Request, upload: Upload) -> tuple[str, UploadFields]:
        pieces = body_of(req).pieces(self._max_bytes + FORM_BYTES, self._timeout_s)
        texts: dict[str, str] = {}
        filename: str | None = None
        async for part in read_parts(pieces, req.content_type or ""):
            if part.name != "file":
                texts[part.name] = await part.text()
            elif filename is not None:
                raise ApiError("invalid_value", "There must be one 'file'.", "file")
            else:
                filename = part.filename or "upload"
                await self._store_part(part, upload)
        if filename is None:
            raise ApiError(
                "missing_required_parameter", "Missing required parameter: 'file'.", "file"
            )
        return filename, _fields(texts)

    async def _store_part(self, part: Part, upload: Upload) -> None:
        async for data in part.pieces():
            if upload.size + len(data) > self._max_bytes:
                what = f"A file has at most {self._max_bytes} bytes."
                raise ApiError("request_too_large", what, "file")
            await upload.write(data)


async def _discard(upload: Upload) -> None:
    """Without Redis the pieces go by themselves; the first error is the one to tell."""
    try:
        await upload.discard()
    except ApiError:
        return


def _fields(texts: dict[str, str]) -> UploadFields:
    values: dict[str, Any] = {name: texts[name] for name in ("purpose",) if name in texts}
    expiry = {
        name: texts[f"{_EXPIRES_AFTER}[{name}]"]
        for name in ("anchor", "seconds")
        if f"{_EXPIRES_AFTER}[{name}]" in texts
    }
    if expiry:
        values[_EXPIRES_AFTER] = expiry
    try:
        return msgspec.convert(values, UploadFields, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
