"""The shape of a model from its files, whatever their format. Torch-free; reads no weights."""

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.models.registry import check_architecture
from engine.weights.files import ModelFiles
from engine.weights.ggml_config import read_ggml_config
from engine.weights.gguf_config import read_gguf_config
from engine.weights.gguf_metadata import read_gguf
from engine.weights.hf_config import read_hf_config
from engine.weights.rope_scaling import check_rope_factors


def read_model_config(files: ModelFiles) -> ModelConfig:
    """Read and check a model's configuration from config.json or from GGUF metadata.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    if files.kind == "gguf":
        config = read_gguf_config(read_gguf(files.weights), files.weights[0])
    elif files.kind == "ggml":
        config = read_ggml_config(files.weights[0], files.gqa)
    else:
        config = read_hf_config(files.directory, files.weights)
    return check_model_config(config, files.name)


def check_model_config(config: ModelConfig, name: str) -> ModelConfig:
    """`config` itself. Raises LoadError for a shape that no family here can have."""
    check_architecture(config.architecture)
    if config.num_heads % config.num_kv_heads:
        raise LoadError(
            f"{name} has {config.num_heads} attention heads, which is no multiple of its "
            f"{config.num_kv_heads} key-value heads."
        )
    if config.num_turned % 2 or config.num_turned > config.head_dim:
        raise LoadError(
            f"{name} turns {config.num_turned} of the {config.head_dim} dimensions of a head; "
            "rotary needs an even number of them."
        )
    check_rope_factors(config, name)
    if config.num_experts and not 0 < config.num_experts_per_token <= config.num_experts:
        raise LoadError(
            f"{name} sends a token to {config.num_experts_per_token} of its {config.num_experts} "
            "experts; it must be one at least and no more than there are."
        )
    return config
