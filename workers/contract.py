"""What crosses the wire between API and workers: jobs, log entries, key names. Knows msgspec only.

Structs travel as MessagePack with a schema version. The arq argument is the job id alone, so no
prompt reaches a log.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Literal

import msgspec

from workers.counts import Counts as Counts
from workers.keys import (
    ARQ_JOB_PREFIX as ARQ_JOB_PREFIX,
    CHORES_CHANNEL as CHORES_CHANNEL,
    CHORES_KEY as CHORES_KEY,
    DEAD_KEY as DEAD_KEY,
    LEASE_PREFIX as LEASE_PREFIX,
    MODELS_KEY as MODELS_KEY,
    MODELS_SEEN_KEY as MODELS_SEEN_KEY,
    WAKE_UP as WAKE_UP,
    WORKERS_KEY as WORKERS_KEY,
    api_channel as api_channel,
    arq_job_key as arq_job_key,
    arq_retry_key as arq_retry_key,
    cancel_key as cancel_key,
    class_key as class_key,
    control_channel as control_channel,
    idempotency_key as idempotency_key,
    isq_channel as isq_channel,
    isq_key as isq_key,
    isq_turn_key as isq_turn_key,
    job_key as job_key,
    lease_key as lease_key,
    leases_key as leases_key,
    limit_key as limit_key,
    log_key as log_key,
    queue_key as queue_key,
    re_isq_key as re_isq_key,
    tenants_key as tenants_key,
    wake_channel as wake_channel,
    worker_key as worker_key,
)
from workers.log_events import (
    WORKER_FAILURES as WORKER_FAILURES,
    CallDelta as CallDelta,
    Delta as Delta,
    Done as Done,
    Event as Event,
    Failed as Failed,
    Fence as Fence,
    Retried as Retried,
    Started as Started,
    TokenLogprob as TokenLogprob,
    Tokens as Tokens,
    Usage as Usage,
    Vectors as Vectors,
    completion_tokens as completion_tokens,
    is_terminal as is_terminal,
    num_events as num_events,
)

SCHEMA_VERSION = 1
ARQ_FUNCTION = "generate"
RESPONSES = "/v1/responses"  # the endpoint whose names differ from those of its kind of job
MESSAGES = "/v1/messages"  # Anthropic's
EMBEDDINGS = "/v1/embeddings"
SCORES = ("/v1/score", "/score")
RERANKS = ("/v1/rerank", "/rerank", "/v2/rerank")


# What a model makes of its input: text, a vector, or a pair's scores.
Task = Literal["generate", "embed", "score"]
ServiceClass = Literal["interactive", "default", "batch"]  # most urgent first


class Dry(msgspec.Struct, frozen=True, kw_only=True):
    """DRY repetition penalty. No repetition goes across a token whose text has a breaker."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a request asks of the sampler. None: the model's default (generation_config.json)."""

    seed: int
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    dry: Dry | None = None
    includes_stop: bool = False  # the stop string that was met is shown
    shows_special_tokens: bool = False
    truncates_prompt: bool = False  # one that is too long loses its beginning
    logprobs: int | None = None  # alternatives beside each token's log-probability; None: no word


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an answer must look like; `param` is the request's field that says so.

    `value`: a schema, a regex, a list of texts, or a grammar as text or llguidance's object.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf", "llguidance"]
    value: Any = None
    param: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way. Everything that a retry needs is here or in the token log.

    A chat job has `messages` and one prompt; a completion job has `prompts`, text or token ids.
    Choice number `p * n + i` is the i-th answer to prompt p. An embedding job has `prompts`, each
    of which becomes a vector. A score job's `prompts` are `num_queries` queries, then documents:
    each document is scored against the query of its number, or against the only one.
    """

    id: str
    kind: Literal["chat", "completion", "embedding", "score"]
    model: str
    home: str  # the API process whose channel carries the tokens
    created_s: int
    sampling: Sampling
    version: int = SCHEMA_VERSION
    request_id: str = ""
    n: int = 1
    messages: list[dict[str, Any]] | None = None
    prompts: list[str | list[int]] | None = None
    num_queries: int = 0  # of the prompts; an embedding job may have some, too
    max_input_tokens: int = 0  # to which an input is cut; 0: none is; -1: the model's limit
    max_document_tokens: int = 0  # to which a document is cut before it joins its query; 0: none is
    shows_prompt: bool = False  # its text, and log-probabilities if asked for, come first
    tools: list[dict[str, Any]] = []  # those that the model may call
    max_calls: int | None = None  # of tools, in one answer
    must_call: bool = False  # a tool, and say nothing else
    strict_tools: tuple[str, ...] = ()  # whose arguments follow their schema in any case
    constraint: Constraint | None = None
    tells_reasoning: bool = False  # apart from the answer
    template_kwargs: dict[str, Any] = {}
    is_capped: bool = False  # an answer for which the context has too little room may end there
    continues_message: bool = False  # the last message is the answer's beginning
    stream: bool = False
    include_usage: bool = False
    includes_usage_always: bool = False  # in every chunk of a stream
    best: int = 0  # answers to show of each prompt's `n`, the most probable ones; 0: all
    hides_logprobs: bool = False  # they were asked of the engine for `best` alone
    tenant: str = ""
    service_class: ServiceClass = "default"
    endpoint: str = ""  # the route it came in by, which decides how it is shown again
    is_detached: bool = False  # runs on when nobody listens
    prompt_tokens: int = 0  # the API's estimate: it does not tokenize
    cost: int = 0  # tokens that it is charged before they are counted
    result_ttl_s: int = 0  # how long the answer outlives the end; 0: the worker's setting
    webhook: str = ""  # who is told of the end
    trace: dict[str, str] = {}  # W3C headers: the span of the request that made it
    batch: str = ""  # the batch that it is a line of
    line: int = -1
    echo: dict[str, Any] = {}  # what the endpoint repeats of its request
    metadata: dict[str, str] = {}

    @property
    def continues_text(self) -> bool:
        """True if the answer's text goes on where the prompt's ends."""
        return self.kind == "completion" or self.continues_message

    @property
    def prompt_param(self) -> str:
        """What its endpoint calls the prompt."""
        if self.endpoint in (RESPONSES, EMBEDDINGS):
            return "input"
        if self.num_queries:
            return "documents" if self.endpoint in RERANKS else "text_2"
        return "messages" if self.kind == "chat" else "prompt"

    @property
    def makes_vectors(self) -> bool:
        """True if its log has vectors and no text."""
        return self.kind in ("embedding", "score")

    @property
    def num_choices(self) -> int:
        """How many texts or vectors the job makes."""
        if self.kind == "score":
            return len(self.prompts or ()) - self.num_queries
        return self.n * (len(self.prompts) if self.prompts is not None else 1)


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the API knows of a served model; a worker writes it when its engine is ready."""

    name: str
    queue: str
    context_length: int
    vocab_size: int
    created_s: int
    fingerprint: str = ""
    device: str = ""
    dtype: str = ""
    kv_tokens: int = 0
    max_seqs: int = 0
    isq_types: tuple[str, ...] = ()  # what /v1/re_isq may ask of its workers
    task: Task = "generate"
    vector_size: int = 0  # numbers in what it makes of an input, if that is a vector


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's gauges. The key expires when the worker stops writing it."""

    worker: str
    model: str
    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    num_preemptions: int = 0
    is_draining: bool = False
    isq: str = ""  # the type that its weights were quantised to while they were loaded
    isq_change: str = ""  # the last change of weights that it made
    prefix_queries: int = 0
    prefix_hits: int = 0
    counts: Counts | msgspec.UnsetType = msgspec.UNSET


# What re_isq asked for counts so long after the model's last worker is gone: its workers may all be
# started again, but a fleet that was away for longer begins with its own settings.
ISQ_TTL_S = 600


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of weights came to in one worker. Without an error, it has them."""

    before: str  # a type as in Heartbeat
    after: str
    took_ms: int = 0
    error: str = ""


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_batch_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, int, msgspec.Raw, int]]])
_card_decoder = msgspec.msgpack.Decoder(ModelCard)
_heartbeat_decoder = msgspec.msgpack.Decoder(Heartbeat)
_swap_decoder = msgspec.msgpack.Decoder(Swap)

encode = _encoder.encode
decode_event = _event_decoder.decode
decode_card = _card_decoder.decode
decode_heartbeat = _heartbeat_decoder.decode
decode_swap = _swap_decoder.decode


class WireError(ValueError):
    """A record that this version cannot read; the message names both versions."""


def decode_job(data: bytes) -> Job:
    """Read a job record. Raises WireError for another schema version or a damaged record."""
    try:
        job = _job_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"job record cannot be read: {error}") from error
    if job.version != SCHEMA_VERSION:
        raise WireError(f"job record has schema {job.version}, this process reads {SCHEMA_VERSION}")
    return job


class Append(msgspec.Struct, frozen=True):
    """One entry to append: `index` is the log length it expects, `ttl_s` an expiry to set or 0."""

    job: str
    index: int
    payload: bytes
    ttl_s: int = 0


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What the enqueue script needs to know of a job and of its tenant's limits.

    Times count from now on, in ms, 0 for none; limits are 0 for none; `digest` names the body that
    came with an idempotency key, if one did.
    """

    id: str
    tenant: str
    # `class` is what the scripts call it
    service_class: ServiceClass = msgspec.field(name="class")
    home: str
    cost: int
    prompt_tokens: int
    wake: str
    is_followed: bool
    ttl_ms: int
    max_jobs: int
    max_tokens: int
    deadline_ms: int = 0
    wait_ms: int = 0
    tenant_jobs: int = 0
    requests_per_min: int = 0
    tokens_per_min: int = 0
    digest: str = ""
    digest_ttl_ms: int = 0
    is_line: bool = False  # of a batch, which bounds them itself


def encode_batch(appends: Iterable[Append]) -> bytes:
    """A step's entries for the step script, which also publishes them as they are."""
    items = [(a.job, a.index, _raw_string(a.payload), a.ttl_s) for a in appends]
    return _encoder.encode((SCHEMA_VERSION, items))


def encode_previous(entries: Mapping[str, bytes]) -> bytes:
    """Per job the entry before its first one in a batch, for the step script to compare."""
    return _encoder.encode({job: _raw_string(entry) for job, entry in entries.items()})


def decode_batch(data: bytes) -> list[tuple[str, int, bytes]]:
    """The (job, log index, entry) triples of a published batch. Raises WireError."""
    try:
        version, items = _batch_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"published batch cannot be read: {error}") from error
    if version != SCHEMA_VERSION:
        raise WireError(f"batch has schema {version}, this process reads {SCHEMA_VERSION}")
    return [(job, index, _string_body(raw)) for job, index, raw, _ in items]


def _raw_string(data: bytes) -> msgspec.Raw:
    """`data` as a MessagePack string: Redis' cmsgpack knows no bin type, Lua strings are bytes."""
    size = len(data)
    if size < 32:
        return msgspec.Raw(bytes((0xA0 | size,)) + data)
    if size < 1 << 16:
        return msgspec.Raw(b"\xda" + size.to_bytes(2, "big") + data)
    return msgspec.Raw(b"\xdb" + size.to_bytes(4, "big") + data)


_STRING_HEADER_BYTES = {0xD9: 2, 0xDA: 3, 0xDB: 5}


def _string_body(raw: msgspec.Raw) -> bytes:
    data = bytes(raw)
    return data[_STRING_HEADER_BYTES.get(data[0], 1) :]


def encode_arq_job(job_id: str, created_ms: int) -> bytes:
    """The record that arq reads at `arq:job:{id}` (arq.jobs.serialize_job's shape)."""
    return _encoder.encode(
        {"t": None, "f": ARQ_FUNCTION, "a": (job_id,), "k": {}, "et": created_ms}
    )


def load_script(name: str) -> str:
    """The Lua source `workers/lua/{name}.lua`, after those that its first line includes."""
    source = (resources.files("workers") / "lua" / f"{name}.lua").read_text("utf-8")
    first = source.partition("\n")[0]
    if first.startswith(_INCLUDE):
        names = first.removeprefix(_INCLUDE).split(", ")
        return "".join(map(load_script, names)) + source
    return source


_INCLUDE = "-- include "
