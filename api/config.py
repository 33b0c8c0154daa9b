"""The API process's settings, read once.

Knows how to take them from the environment, not what they are used for.
"""

from typing import Annotated, Literal

import msgspec

from workers.environment import setting


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one API process; `workers.environment.load(ApiConfig)` reads them."""

    redis_url: Annotated[
        str, setting("Redis: redis://, rediss:// or unix://.", variable="REDIS_URL", min_length=1)
    ] = "redis://127.0.0.1:6379/0"
    host: Annotated[str, setting("Address that the HTTP server listens on.", min_length=1)] = (
        "0.0.0.0"
    )
    port: Annotated[
        int, setting("Port that the HTTP server listens on.", variable="PORT", ge=0, le=65535)
    ] = 1234
    web_concurrency: Annotated[
        int, setting("API processes on this machine.", variable="WEB_CONCURRENCY", ge=1, le=256)
    ] = 1
    log: Annotated[
        Literal["off", "error", "warn", "info", "debug", "trace"], setting("Log level.")
    ] = "info"
    api_keys_file: Annotated[
        str,
        setting(
            "TOML file of API keys with their tenants and limits, read again when it changes. "
            "Without any key everybody is let in."
        ),
    ] = ""
    api_keys: Annotated[
        str,
        setting(
            "API keys of the tenant `default`, parted by commas, plain or as `sha256:…`; `admin:` "
            "before one gives it the admin routes."
        ),
    ] = ""
    strict_model_names: Annotated[
        bool, setting("Answer 404 to a model name that is not served, instead of serving the one.")
    ] = False
    max_body_bytes: Annotated[int, setting("Largest request body, bytes.", ge=1024)] = 32 << 20
    max_file_bytes: Annotated[int, setting("Largest uploaded file, bytes.", ge=1024)] = 100_000_000
    max_stored_bytes: Annotated[
        int, setting("Most bytes of files that a tenant may have stored.", ge=1024)
    ] = 2_000_000_000
    file_ttl_s: Annotated[
        int,
        setting("How long files and ended batches are kept at most, in seconds.", ge=60),
    ] = 2_592_000
    batch_window: Annotated[
        int, setting("Most lines of a batch that are in the queue at a time.", ge=2)
    ] = 256
    read_timeout_s: Annotated[
        float, setting("How long a request body may take to arrive, in seconds.", gt=0)
    ] = 60.0
    max_queue: Annotated[
        int, setting("Most jobs in a model's queue, running ones included.", ge=1)
    ] = 2000
    max_queue_tokens: Annotated[
        int, setting("Most prompt tokens, by estimate, that wait in a model's queue.", ge=1)
    ] = 4_000_000
    max_queue_wait_s: Annotated[
        float,
        setting(
            "How long a request waits for a worker before 503, if its client waits with it. "
            "0: for ever.",
            ge=0,
        ),
    ] = 600.0
    max_memory_fraction: Annotated[
        float,
        setting(
            "New work is refused when Redis uses more of its maxmemory than this, 0 to 1.",
            gt=0,
            le=1,
        ),
    ] = 0.85
    idempotency_ttl_s: Annotated[
        int,
        setting(
            "How long an Idempotency-Key is remembered, in seconds, if its answer is kept so long.",
            ge=1,
        ),
    ] = 86400
    max_streams: Annotated[
        int, setting("Most requests that one API process follows at a time.", ge=1)
    ] = 2000
    ping_s: Annotated[
        float, setting("Silence after which a stream gets a ping, in seconds.", gt=0)
    ] = 15.0
    first_event_s: Annotated[
        float,
        setting(
            "How long a stream waits to learn if its job is valid before 200, in seconds.", ge=0
        ),
    ] = 1.5
    redis_timeout_s: Annotated[
        float, setting("How long a request waits for Redis before 503, in seconds.", gt=0)
    ] = 0.8
    graceful_timeout_s: Annotated[
        int, setting("How long open streams may go on after SIGTERM, in seconds.", ge=1)
    ] = 25
    model_grace_s: Annotated[
        int,
        setting(
            "How long a model is still known after its last worker's heartbeat, in seconds.", ge=1
        ),
    ] = 60
    job_ttl_s: Annotated[
        int, setting("A job that has not ended after this long is given up, in seconds.", ge=1)
    ] = 86400
    result_ttl_s: Annotated[
        int, setting("How long a finished answer can be read again, in seconds.", ge=1)
    ] = 3600
    store_ttl_s: Annotated[
        int,
        setting(
            "How long a stored response or chat completion is kept after its end, in seconds.",
            ge=1,
        ),
    ] = 86400
    webhook_url: Annotated[
        str,
        setting(
            "Who is told of the end of work that nobody waits for, unless the request or its API "
            "key names another URL; empty: nobody."
        ),
    ] = ""
    webhook_secret: Annotated[
        str, setting("Signs webhooks, `whsec_…`, unless the API key has a secret of its own.")
    ] = ""
    webhook_allow_private: Annotated[
        bool, setting("Let webhooks go to private addresses, such as those of this network.")
    ] = False
    request_logging_file: Annotated[
        str, setting("File that gets every request and response as JSON lines; empty: none.")
    ] = ""
    request_logging_redact: Annotated[
        bool, setting("Write sizes to the request log in the place of what was said.")
    ] = False
    request_logging_max_bytes: Annotated[
        int,
        setting(
            "Size at which the request log is set aside (`.1`, `.2`, …) and begun anew, in bytes. "
            "0: never.",
            ge=0,
        ),
    ] = 100_000_000
    request_logging_keep: Annotated[
        int, setting("How many request logs that were set aside are kept.", ge=0, le=1000)
    ] = 5
    otlp_endpoint: Annotated[
        str,
        setting(
            "URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces; it needs the "
            "extra `otel`. The other OTEL_… variables hold as well. Empty: none.",
            variable="OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ] = ""
    access_log: Annotated[
        Literal["off", "text", "json"],
        setting("A line on stdout for each request that is over; never what was said in it."),
    ] = "off"
