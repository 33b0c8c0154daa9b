"""The engine's configuration and the parameters of a sequence, as plain data. Knows no torch."""

from typing import Any, Literal

import msgspec

Activation = Literal["silu", "gelu", "gelu_tanh"]
# What an engine makes of a sequence: tokens, a vector, or a classifier's scores.
Task = Literal["generate", "embed", "score"]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is started with.

    Of `kv_cache_bytes`, `kv_cache_tokens` and `memory_usage` one at most is not 0; if none is, the
    KV cache is what the device sensibly gives.
    """

    task: Literal["auto"] | Task = "auto"  # auto: what the model's files are for
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    dtype: str = "auto"  # auto, float32, bfloat16, float16; auto is float32 on CPU
    max_seqs: int = 32
    max_num_batched_tokens: int = 2048
    max_model_len: int = 0  # 0: the model's own context length
    block_size: int = 16
    kv_cache_bytes: int = 0
    kv_cache_tokens: int = 0
    memory_usage: float = 0.0  # share of the device's memory that all in it may take, up to 1
    enable_prefix_cache: bool = True
    paged_attn: bool = True  # False: one block per sequence, as long as the context
    num_threads: int = 0  # 0: torch's own choice
    # What packed weights are multiplied by on a CPU; auto is int8 where there are kernels for it.
    cpu_activations: Literal["auto", "int8", "float"] = "auto"
    # auto is float16 where a CPU's products round their inputs as above, else `dtype`.
    kv_cache_dtype: Literal["auto", "float32", "float16", "fp8"] = "auto"
    kernel_cache: str = ""  # folder of the compiled CPU kernels; empty: below ~/.cache
    isq: str = ""  # the type that weights are quantised to as they are loaded; empty: none
    imatrix: str = ""  # path of a file that says how much each column matters to K types
    topology: str = ""  # path of a YAML file that gives layers types of their own
    tensor_parallel: int = 1  # processes that share the model
    enforce_eager: bool = False  # on a GPU: no graphs of decode steps


# other spellings of `EngineConfig.dtype`: those of mistral.rs and of vLLM
DTYPES = {
    **{"f32": "float32", "bf16": "bfloat16", "f16": "float16"},
    **{"float": "float32", "half": "float16"},
}


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's shape, whatever file it came from. Names follow Hugging Face's config.json."""

    architecture: str  # as in config.json `architectures`, e.g. LlamaForCausalLM
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # added to the norms' weights as they are loaded
    is_norm_wide: bool = False  # the norms' weights are float32, multiplied before rounding
    activation: Activation = "silu"
    rotary_dim: int = 0  # leading dimensions of a head that are turned; 0: all
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    local_rope_theta: float = 0.0  # of layers with a window, unscaled; 0: they are like the others
    rope_free_layers: tuple[int, ...] = ()
    is_causal: bool = True  # a token sees those before it; else all, and windows reach both ways
    windows: tuple[int, ...] = ()  # a layer's sliding window in tokens, 0: none; empty: no layer's
    attention_scale: float = 0.0  # 0: head_dim ** -0.5
    attention_softcap: float = 0.0  # 0: off
    attention_bias: bool = False  # on q, k, v
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["", "head", "row"] = ""  # over each head, or over all heads of a token
    num_experts: int = 0
    num_experts_per_token: int = 0
    expert_intermediate_size: int = 0
    is_topk_normalised: bool = True  # the chosen experts' weights add up to one
    dense_layers: tuple[int, ...] = ()  # those without experts in a model that has them
    embedding_scale: float = 1.0
    tie_word_embeddings: bool = False
    lm_head_bias: bool = False
    logit_softcap: float = 0.0  # 0: off
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    dtype: str = "float32"  # the dtype that the files store

    @property
    def num_turned(self) -> int:
        """Leading dimensions of a head that rotary positions turn."""
        return self.rotary_dim or self.head_dim

    def window(self, layer: int) -> int:
        """The layer's sliding window in tokens, 0 for none."""
        return self.windows[layer] if self.windows else 0


class DryParams(msgspec.Struct, frozen=True, kw_only=True):
    """How much a token is held back that would go on with a repetition (`engine/history.py`)."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    breaker_ids: tuple[int, ...] = ()  # no repetition goes across one of them


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How one sequence is sampled; every value is settled.

    Random numbers are a function of (seed, choice, position).
    """

    max_tokens: int
    seed: int = 0
    choice: int = 0
    min_tokens: int = 0
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    allowed_token_ids: tuple[int, ...] = ()  # nothing else may be sampled; empty: all may
    bad_words: tuple[tuple[int, ...], ...] = ()  # ids that must not come in this order
    dry: DryParams | None = None
    grammar: str = ""  # what the output follows, as llguidance writes it; empty: nothing
    # How many alternatives are told beside each token's log-probability, made or of the prompt.
    num_logprobs: int | None = None  # None: no log-probabilities
    num_prompt_logprobs: int | None = None
