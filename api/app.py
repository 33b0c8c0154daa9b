"""The ASGI application: routes, request ids, errors. Knows every resource, and no HTTP server."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi
import msgspec
from falcon.asgi import Request, Response

from api.access_log import AccessLog
from api.admin import Dead
from api.anthropic.errors import error_object, is_anthropic
from api.auth import Gate, check_rights
from api.background import in_background
from api.batch.assembly import add_routes as add_batch_routes
from api.body import Body, Receive
from api.broker import Broker
from api.chat import ChatCompletions, StoredCompletion
from api.chat_store import ChatStore
from api.completions import Completions
from api.config import ApiConfig
from api.dead_letters import DeadLetters
from api.docs import Docs
from api.errors import ApiError, ClientGone
from api.exchange import EXCHANGE_KEY, Exchange, exchange_of
from api.generation import BODY_KEY, Generation
from api.health import Health
from api.http_metrics import HttpMetrics
from api.jobs import Jobs
from api.key_file import KeyWatch
from api.memory import EvictingRedis, check_at_start
from api.messages import CountTokens, Messages
from api.metrics import Metrics
from api.models import Models
from api.re_isq import ReIsqs
from api.request_log import RequestLog
from api.response.store import ResponseStore
from api.responses import InputTokens, Responses, StoredResponse
from api.tokens import Asking, Detokenizes, Templates, Tokenizes
from api.vectors import resources as vector_resources
from api.weight_changes import WeightChanges
from workers.environment import load
from workers.tracing import open_collector

if TYPE_CHECKING:
    from api.request_spans import RequestSpans

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
        self._spans = _request_spans(config)
        log = _request_log(config)
        self._access = None if config.access_log == "off" else AccessLog(config.access_log)
        self._broker = Broker(config)
        gate = Gate(KeyWatch(config).keys)
        self._falcon = falcon.asgi.App(
            middleware=[_Middleware(self._broker, gate, log, self._access, self._spans)]
        )
        self._metrics = HttpMetrics()
        self._falcon.add_route("/metrics", Metrics(self._broker, self._metrics))
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
        exchange = scope[EXCHANGE_KEY] = Exchange(scope)
        self._metrics.begin()
        span = None if self._spans is None else self._spans.begin(exchange, scope["headers"])
        try:
            await self._serve(scope, receive, send)
        finally:
            if self._spans is not None and span is not None:
                self._spans.end(span, exchange)
            self._metrics.end(exchange)
            if self._access is not None:
                self._access.note(exchange)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    def __init__(
        self,
        broker: Broker,
        gate: Gate,
        log: RequestLog | None,
        access: AccessLog | None,
        spans: "RequestSpans | None",
    ) -> None:
        self._broker = broker
        self._gate = gate
        self._log = log
        self._access = access
        self._spans = spans

    async def process_startup(self, scope: Scope, event: dict[str, Any]) -> None:
        await self._broker.start()

    async def process_shutdown(self, scope: Scope, event: dict[str, Any]) -> None:
        await self._broker.close()
        if self._log is not None:
            self._log.close()
        if self._access is not None:
            self._access.close()
        if self._spans is not None:
            await self._spans.close()

    async def process_request(self, req: Request, resp: Response) -> None:
        given = req.get_header("x-request-id")
        is_sane = given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
        req.context.request_id = given if is_sane else f"req_{uuid.uuid4().hex}"
        req.context.started_s = time.monotonic()
        resp.set_header("x-request-id", req.context.request_id)
        if is_anthropic(req.path):
            resp.set_header("request-id", req.context.request_id)
        req.context.tenant = self._gate.admit(req.path, req.get_header)

    async def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        check_rights(req.context.tenant, req.uri_template or "")

    async def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        exchange_of(req).note(req, resp)
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


def _request_spans(config: ApiConfig) -> "RequestSpans | None":
    collector = open_collector(config.otlp_endpoint, "tramontane-api")
    if collector is None:
        return None
    from api.request_spans import RequestSpans  # it imports an extra

    return RequestSpans(collector)


def _request_log(config: ApiConfig) -> RequestLog | None:
    if not config.request_logging_file:
        return None
    return RequestLog(
        Path(config.request_logging_file),
        max_bytes=config.request_logging_max_bytes,
        num_kept=config.request_logging_keep,
        is_redacted=config.request_logging_redact,
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
    chats = ChatStore(broker, generation.config)
    app.add_route("/v1/chat/completions", ChatCompletions(generation, chats))
    app.add_route("/v1/chat/completions/{completion_id}", StoredCompletion(chats))
    app.add_route("/v1/completions", Completions(generation))
    responses = ResponseStore(broker)
    stored = StoredResponse(generation, responses)
    asking, response = Asking(generation), Responses(generation, responses)
    app.add_route("/v1/responses", response)
    app.add_route("/v1/responses/input_tokens", InputTokens(asking, response))
    app.add_route("/v1/responses/{response_id}", stored)
    app.add_route("/v1/responses/{response_id}/cancel", stored, suffix="cancel")
    app.add_route("/v1/responses/{response_id}/input_items", stored, suffix="items")
    app.add_route("/v1/messages", Messages(generation))
    app.add_route("/v1/messages/count_tokens", CountTokens(asking))
    for path, resource in (
        ("/tokenize", Tokenizes(asking)),
        ("/detokenize", Detokenizes(asking)),
        ("/apply-template", Templates(asking)),
    ):
        app.add_route(path, resource)
        app.add_route(f"/v1{path}", resource)
    for path, endpoint in vector_resources(generation).items():
        app.add_route(path, endpoint)
    jobs = Jobs(broker, generation.jobs)
    app.add_route("/v1/jobs/{job_id}", jobs)
    app.add_route("/v1/jobs/{job_id}/events", jobs, suffix="events")
    re_isq = ReIsqs(generation, WeightChanges(broker, generation.config.result_ttl_s))
    for path in ("/v1/re_isq", "/re_isq"):
        app.add_route(path, re_isq)
        app.add_route(path + "/{change_id}", re_isq, suffix="one")
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
    is_theirs = is_anthropic(req.path)
    body = error_object(error, req.context.get("request_id")) if is_theirs else error.response()
    resp.data = _encode(body)
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
