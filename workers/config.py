"""The settings of a worker, and what engine and model finder make of them. Reads nothing itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engine.config import DTYPES, EngineConfig
from engine.text.template_files import TemplateChoice
from engine.weights.files import ModelRef
from workers.environment import setting

LogLevel = Literal["off", "error", "warn", "info", "debug", "trace"]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker serves and how. Each field is a variable and a flag."""

    redis_url: Annotated[
        str,
        setting(
            "Redis that carries the jobs: redis://, rediss:// or unix://.",
            variable="REDIS_URL",
            min_length=1,
        ),
    ] = "redis://127.0.0.1:6379/0"
    model: Annotated[
        str, setting("Model directory, Hub repository `org/name[@revision]`, or `builtin`.")
    ] = "builtin"
    kind: Annotated[
        Literal["auto", "plain", "gguf", "ggml"], setting("Format of the model's files.")
    ] = "auto"
    model_file: Annotated[
        str,
        setting(
            "GGUF or GGML file of the model: a name, a pattern (`*Q4_K_M*`), a quantisation "
            "(`Q4_K_M`) or its bits (`4`: the best there is); several names apart by `;`.",
            flag="--file",
        ),
    ] = ""
    tokenizer: Annotated[
        str,
        setting(
            "Tokenizer to take in the place of the model's own: a directory, a tokenizer.json or "
            "a Hub repository.",
            flag="--tok-model-id",
        ),
    ] = ""
    gqa: Annotated[
        int,
        setting("Query heads per key-value head, which a GGML file does not say (70B: 8).", ge=1),
    ] = 1
    arch: Annotated[
        str, setting("Family that config.json has to name (`llama`, `qwen2`, …). Unset: any.")
    ] = ""
    model_name: Annotated[
        str, setting("Name the model is served under. Unset: taken from its files.")
    ] = ""
    token_source: Annotated[
        str,
        setting("Hub token: `literal:TOKEN`, `env:NAME`, `path:FILE`, `cache` or `none`."),
    ] = "cache"
    chat_template: Annotated[
        str,
        setting(
            "Chat template in the place of the model's: a .jinja or .json file, the name of a "
            "bundled one (`chatml`, `llama3`, …), or the text itself."
        ),
    ] = ""
    jinja_explicit: Annotated[
        str, setting("Chat template that goes before all others, --chat-template included.")
    ] = ""
    task: Annotated[
        Literal["auto", "generate", "embed", "score"],
        setting(
            "What the model is for: `generate` text, `embed` texts or `score` pairs of them; "
            "`auto` is what its files say."
        ),
    ] = "auto"
    device: Annotated[str, setting("`auto`, `cpu`, `cuda` or `cuda:N`.")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "f32", "bf16", "f16"],
        setting("Type of the weights: `float32`, `bfloat16`, `float16`, or short `f32` and so on."),
    ] = "auto"
    max_seqs: Annotated[int, setting("Most sequences that run at once.", ge=1)] = 32
    max_model_len: Annotated[
        int, setting("Longest prompt and answer together, in tokens. 0: the model's own.", ge=0)
    ] = 0
    max_num_batched_tokens: Annotated[int, setting("Most tokens of one step.", ge=1)] = 2048
    block_size: Annotated[
        int, setting("Tokens per block of the KV cache.", flag="--pa-blk-size", ge=1)
    ] = 16
    kv_cache_mb: Annotated[
        int,
        setting("Size of the KV cache in MB. 0: the device's choice.", flag="--pa-gpu-mem", ge=0),
    ] = 0
    kv_cache_tokens: Annotated[
        int,
        setting(
            "Size of the KV cache in tokens, of all sequences together. 0: the device's choice.",
            flag="--pa-ctxt-len",
            ge=0,
        ),
    ] = 0
    memory_usage: Annotated[
        float,
        setting(
            "Share of the device's memory that weights, the largest step and KV cache may fill, "
            "with what others have in it. 0: 0.9 on a GPU; on a CPU the cache has a quarter of "
            "what is free.",
            flag="--pa-gpu-mem-usage",
            ge=0,
            le=1,
        ),
    ] = 0.0
    prefix_cache_n: Annotated[
        int, setting("0 turns the prefix cache off; any other number leaves it on.", ge=0)
    ] = 16
    paged_attn: Annotated[
        bool, setting("Page the KV cache; off, a sequence holds one block.", flag="--no-paged-attn")
    ] = True
    num_threads: Annotated[int, setting("CPU threads of the engine. 0: all.", ge=0)] = 0
    cpu_activations: Annotated[
        Literal["auto", "int8", "float"],
        setting(
            "What packed weights are multiplied by on a CPU: `int8`, rounded in groups of 32 (for "
            "BF16 weights to bfloat16) and refused without a C++ compiler, or `float`, exact and "
            "slower; `auto` is int8 where there are kernels for it."
        ),
    ] = "auto"
    kv_cache_dtype: Annotated[
        Literal["auto", "float32", "float16", "fp8"],
        setting(
            "What keys and values are kept as: `float16` also on a CPU beside a float32 model, "
            "`fp8` (e4m3, half the memory) on a GPU; `auto` is float16 on a CPU where products "
            "round their inputs, else what the model is in."
        ),
    ] = "auto"
    kernel_cache: Annotated[
        str,
        setting(
            "Where CPU kernels are kept once they are compiled. Unset: "
            "`$XDG_CACHE_HOME/tramontane/kernels`."
        ),
    ] = ""
    isq: Annotated[
        str,
        setting(
            "Type that the weights are quantised to as they are loaded, in any case: `Q4K`, "
            "`Q8_0`, `HQQ4`, `FP8`, … or bits (`4`). Unset: as the files have them."
        ),
    ] = ""
    imatrix: Annotated[
        str,
        setting(
            "Importance matrix of llama.cpp (.dat or .gguf): how much an error in each column "
            "matters, for --isq `Q2K` to `Q6K`."
        ),
    ] = ""
    topology: Annotated[
        str,
        setting(
            "YAML file that gives layers (`0-8`, `12`) or weights (`/regex/`) an `isq` type of "
            "their own."
        ),
    ] = ""
    tensor_parallel: Annotated[
        int,
        setting(
            "Processes that share the model, each with a part of its heads and inner rows, on a "
            "CUDA device of its own from --device on.",
            ge=1,
        ),
    ] = 1
    enforce_eager: Annotated[
        bool,
        setting(
            "On a GPU, compute decode steps one by one, without CUDA graphs: slower, and starts "
            "faster."
        ),
    ] = False
    lease_s: Annotated[
        float, setting("A dead worker's jobs go to another one after this long.", ge=0.3)
    ] = 6.0
    stall_s: Annotated[
        float,
        setting(
            "An engine that has work and ends no step for this long hangs: it is killed and "
            "started again, in seconds. Longer than the longest step, which is a prefill of "
            "--max-num-batched-tokens; on a CPU ten times as long is allowed.",
            ge=0.2,
        ),
    ] = 60.0
    drain_s: Annotated[
        float, setting("How long a stopping worker finishes what runs, in seconds.", ge=0)
    ] = 25.0
    job_ttl_s: Annotated[
        int, setting("A job that has not ended after this long is given up, in seconds.", ge=1)
    ] = 86400
    result_ttl_s: Annotated[
        int, setting("How long a finished answer can be read again, in seconds.", ge=1)
    ] = 3600
    dead_ttl_s: Annotated[
        int,
        setting(
            "How long a request that was set aside because it crashes engines is kept for an "
            "operator to retry, in seconds.",
            ge=1,
        ),
    ] = 604800
    heartbeat_s: Annotated[
        float, setting("Time between a worker's signs of life, in seconds.", ge=0.05)
    ] = 1.0
    metrics_port: Annotated[
        int,
        setting(
            "Port of every address on which the worker answers `GET /metrics`, without a key. 0: "
            "none; the API's /metrics has the same.",
            ge=0,
            le=65535,
        ),
    ] = 0
    otlp_endpoint: Annotated[
        str,
        setting(
            "URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces; it needs the "
            "extra `otel`. The other OTEL_… variables hold as well. Empty: none.",
            variable="OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ] = ""
    log: Annotated[LogLevel, setting("How much is logged.")] = "info"
    engine: Annotated[
        str,
        setting("Factory of the engine, `module:function`.", pattern=r"^[\w.]+:\w+$"),
    ] = "engine.engine:load_engine"


def engine_config(config: WorkerConfig, environ: Mapping[str, str] | None = None) -> EngineConfig:
    """What the engine process is started with. `environ` says where a machine keeps caches."""
    return EngineConfig(
        task=config.task,
        device=config.device,
        dtype=DTYPES.get(config.dtype, config.dtype),
        max_seqs=config.max_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        block_size=config.block_size,
        kv_cache_bytes=config.kv_cache_mb * 1_000_000,
        kv_cache_tokens=config.kv_cache_tokens,
        memory_usage=config.memory_usage,
        enable_prefix_cache=config.prefix_cache_n > 0,
        paged_attn=config.paged_attn,
        num_threads=config.num_threads,
        cpu_activations=config.cpu_activations,
        kv_cache_dtype=config.kv_cache_dtype,
        kernel_cache=_kernel_cache(config.kernel_cache, environ),
        isq=config.isq,
        imatrix=config.imatrix,
        topology=config.topology,
        tensor_parallel=config.tensor_parallel,
        enforce_eager=config.enforce_eager,
    )


def _kernel_cache(given: str, environ: Mapping[str, str] | None) -> str:
    """An absolute path, or nothing where neither the user nor the environment names one."""
    if given:
        return str(Path(given).expanduser().absolute())
    home = Path((environ or {}).get("XDG_CACHE_HOME", ""))
    return str(home / "tramontane" / "kernels") if home.is_absolute() else ""


def template_choice(config: WorkerConfig) -> TemplateChoice:
    """The chat template that the user sets, if any."""
    return TemplateChoice(explicit=config.jinja_explicit, given=config.chat_template)


def model_ref(config: WorkerConfig) -> ModelRef:
    """Which files to serve, as the user named them."""
    return ModelRef(
        model=config.model,
        kind=config.kind,
        file=config.model_file or None,
        token_source=config.token_source,
        tokenizer=config.tokenizer or None,
        gqa=config.gqa,
        arch=config.arch or None,
    )
