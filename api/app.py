"""The ASGI application: routes, request ids, errors. Knows every resource, and no HTTP server."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import msgspec
from falcon.asgi import Request, Response

from api.admin import Dead
from api.auth import Gate, check_rights
from api.background import in_background
from api.batch.assembly import add_routes as add_batch_routes
from api.body import Body, Receive
from api.broker import Broker
from api.chat import ChatCompletions
from api.completions import Completions
from api.config import ApiConfig
from api.dead_letters import DeadLetters
from api.docs import Docs
from api.errors import ApiError, ClientGone
from api.generation import BODY_KEY, Generation
from api.health import Health
from api.jobs import Jobs
from api.key_file import KeyWatch
from api.memory import EvictingRedis, check_at_start
from api.models import Models
from api.request_log import RequestLog
from api.response.store import ResponseStore
from api.responses import Responses, StoredResponse
from workers.environment import load

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
_Falcon = falcon.asgi.App[Request, Response]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_REQUEST_ID = 128
_DISCARD_S = 10.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LOG_LEVELS = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_CLIENT_GONE = 499
_BOOT_FAILED = 3  # gunicorn stops as a whole when a worker process exits so
_encode = msgspec.json.Encoder().encode


class Application:
    """The ASGI callable. `begin_drain` is for servers that can tell it of a coming shutdown."""

    def __init__(self, config: ApiConfig) -> None:
        path = config.request_logging_file
        log = RequestLog(Path(path)) if path else None
        self._broker = Broker(config)
        gate = Gate(KeyWatch(config).keys)
        self._falcon = falcon.asgi.App(middleware=[_Middleware(self._broker, gate, log)])
        self._falcon.req_options.strip_url_path_trailing_slash = True
        generation = Generation(self._broker, config, log)
        parts = in_background(generation, gate)
        _add_routes(self._falcon, self._broker, generation)
        add_batch_routes(self._falcon, parts, generation)
        _add_error_handlers(self._falcon)

    def begin_drain(self, grace_s: float) -> None:
        """Take no new work; end the open streams after `grace_s` for their clients to resume."""
        self._broker.is_draining = True
        asyncio.get_running_loop().call_later(grace_s, self._broker.relay.drain)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; a WebSocket is refused."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._falcon(scope, receive, send)
            return
        body = Body(receive, scope["headers"])
        scope[BODY_KEY] = body
        try:
            await self._falcon(_readable(scope), _unread, send)
            await body.discard(_DISCARD_S)
        finally:
            body.close()


def create_app(config: ApiConfig | None = None) -> Application:
    """The application with settings from the environment, or with the given ones.

    Raises SettingError, or SystemExit for a Redis that would lose jobs.
    """
    config = load(ApiConfig) if config is None else config
    logging.basicConfig(format=_LOG_FORMAT)  # does nothing if the server has set logging up
    logging.getLogger("api").setLevel(_LOG_LEVELS[config.log])
    try:
        check_at_start(config.redis_url)
    except EvictingRedis as error:
        logger.critical("%s", error)
        raise SystemExit(_BOOT_FAILED) from error
    return Application(config)


class _Middleware:
    """The broker's life, request ids, tenants, and the log of answers in one piece."""

    def __init__(self, broker: Broker, gate: Gate, log: RequestLog | None) -> None:
        self._broker = broker
        self._gate = gate
        self._log = log

    async def process_startup(self, scope: Scope, event: dict[str, Any]) -> None:
        await self._broker.start()

    async def process_shutdown(self, scope: Scope, event: dict[str, Any]) -> None:
        await self._broker.close()
        if self._log is not None:
            self._log.close()

    async def process_request(self, req: Request, resp: Response) -> None:
        given = req.get_header("x-request-id")
        is_sane = given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
        req.context.request_id = given if is_sane else f"req_{uuid.uuid4().hex}"
        req.context.started_s = time.monotonic()
        resp.set_header("x-request-id", req.context.request_id)
        req.context.tenant = self._gate.admit(req.path, req.get_header)

    async def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        check_rights(req.context.tenant, req.uri_template or "")

    async def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        if self._log is None or req.method != "POST" or resp.stream is not None:
            return
        self._log.put(
            "response",
            req.context.request_id,
            req.path,
            job_id=resp.get_header("x-job-id"),
            status=resp.status_code,
            duration_s=round(time.monotonic() - req.context.started_s, 6),
            body=resp.data,
        )


def _add_routes(app: _Falcon, broker: Broker, generation: Generation) -> None:
    health = Health(broker)
    models = Models(broker)
    app.add_route("/", health)
    app.add_route("/health", health)
    app.add_route("/live", health)
    app.add_route("/ready", health, suffix="ready")
    docs = Docs()
    app.add_route("/openapi.json", docs)
    app.add_route("/docs", docs, suffix="page")
    app.add_route("/v1/models", models)
    app.add_route("/v1/models/{name:path}", models, suffix="one")
    app.add_route("/v1/chat/completions", ChatCompletions(generation))
    app.add_route("/v1/completions", Completions(generation))
    responses = ResponseStore(broker)
    stored = StoredResponse(generation, responses)
    app.add_route("/v1/responses", Responses(generation, responses))
    app.add_route("/v1/responses/{response_id}", stored)
    app.add_route("/v1/responses/{response_id}/cancel", stored, suffix="cancel")
    app.add_route("/v1/responses/{response_id}/input_items", stored, suffix="items")
    jobs = Jobs(broker, generation.jobs)
    app.add_route("/v1/jobs/{job_id}", jobs)
    app.add_route("/v1/jobs/{job_id}/events", jobs, suffix="events")
    dead = Dead(DeadLetters(broker, generation.config.job_ttl_s), generation.jobs)
    app.add_route("/admin/dead", dead)
    app.add_route("/admin/dead/{job_id}", dead, suffix="one")
    app.add_route("/admin/dead/{job_id}/retry", dead, suffix="retry")


def _add_error_handlers(app: _Falcon) -> None:
    app.add_error_handler(Exception, _on_bug)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(ApiError, _on_api_error)
    app.add_error_handler(ClientGone, _on_client_gone)


async def _on_api_error(req: Request, resp: Response, error: ApiError, params: Any) -> None:
    resp.status = error.status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = _encode(error.response())
    if error.retry_after_s is not None:
        resp.set_header("retry-after", str(error.retry_after_s))
    if error.is_final:
        resp.set_header("x-should-retry", "false")
    if error.status == 401:
        resp.set_header("www-authenticate", "Bearer")


async def _on_http_error(
    req: Request, resp: Response, error: falcon.HTTPError, params: Any
) -> None:
    if isinstance(error, falcon.HTTPNotFound):
        mapped = ApiError("not_found", f"There is no route {req.method} {req.path}.")
    elif isinstance(error, falcon.HTTPMethodNotAllowed):
        mapped = ApiError("method_not_allowed", f"{req.path} does not take {req.method}.")
        resp.set_headers(dict(error.headers or {}))
    else:
        mapped = ApiError("bad_request", error.description or error.title or "Bad request.")
    await _on_api_error(req, resp, mapped, params)


async def _on_bug(req: Request, resp: Response, error: Exception, params: Any) -> None:
    logger.error("request %s failed", req.context.get("request_id"), exc_info=error)
    mapped = ApiError("internal_error", "The server failed to process the request.")
    await _on_api_error(req, resp, mapped, params)


async def _on_client_gone(req: Request, resp: Response, error: ClientGone, params: Any) -> None:
    resp.status = _CLIENT_GONE


async def _unread() -> dict[str, Any]:
    """Falcon wants a first piece of the body before it routes; the resource reads ours."""
    return {"type": "http.request", "body": b"", "more_body": True}


def _readable(scope: Scope) -> Scope:
    """The scope with a query string that Falcon can decode: it takes UTF-8 for granted."""
    query: bytes = scope["query_string"]
    if query.isascii():
        return scope
    return {**scope, "query_string": query.decode("utf-8", "replace").encode()}
