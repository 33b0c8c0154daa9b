"""GET /openapi.json and /docs: the API describes itself. Knows HTTP, not what there is to say."""

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.openapi.document import openapi
from api.openapi.operations import OPERATIONS
from api.openapi.page import page

# The page loads nothing and runs nothing, so a browser should not either.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Docs:
    """Both are made when they are first asked for."""

    def __init__(self) -> None:
        self._json = b""
        self._page = b""

    async def on_get(self, req: Request, resp: Response) -> None:
        """The OpenAPI document."""
        self._json = self._json or msgspec.json.encode(openapi(OPERATIONS))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._json

    async def on_get_page(self, req: Request, resp: Response) -> None:
        """The same for people."""
        self._page = self._page or page(openapi(OPERATIONS))
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header("content-security-policy", _POLICY)
        resp.data = self._page
