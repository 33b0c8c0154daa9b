"""Which encoders there are, and what each family calls its tensors. Torch-free."""

from typing import NamedTuple

from engine.errors import LoadError


class EmbeddingNames(NamedTuple):
    """The tables that are summed, and the norm of the sum."""

    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"


class LayerNames(NamedTuple):
    """`layers` is the list of them, the others are below one layer; stacked tensors have one name.

    Of a gated block `up` has gate and up, in this order.
    """

    layers: str = "encoder.layer"
    qkv: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: tuple[str, ...] = ("intermediate.dense",)
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"


class ClassifierNames(NamedTuple):
    """`dense`, then `activation`, then `norm` if there is one, then `output`; no dense, no norm."""

    dense: str = ""
    activation: str = "tanh"
    norm: str = ""
    output: str = "classifier"


class Family(NamedTuple):
    """`prefix` stands before the encoder's tensors where it has a head on top; `heads` are those
    of pre-training, which are not loaded.
    """

    prefix: str
    embeddings: EmbeddingNames = EmbeddingNames()
    layer: LayerNames = LayerNames()
    final_norm: str = ""
    classifier: ClassifierNames = ClassifierNames("pooler.dense")
    heads: tuple[str, ...] = ("cls.", "lm_head.")


_BERT = Family("bert")
_ROBERTA = Family(
    "roberta", classifier=ClassifierNames("classifier.dense", output="classifier.out_proj")
)
_DISTILBERT = Family(
    "distilbert",
    layer=LayerNames(
        "transformer.layer",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        "sa_layer_norm",
        ("ffn.lin1",),
        "ffn.lin2",
        "output_layer_norm",
    ),
    classifier=ClassifierNames("pre_classifier", "relu"),
    heads=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
_MODERNBERT = Family(
    "model",
    EmbeddingNames(words="embeddings.tok_embeddings", norm="embeddings.norm"),
    LayerNames("layers", ("attn.Wqkv",), "attn.Wo", "attn_norm", ("mlp.Wi",), "mlp.Wo", "mlp_norm"),
    final_norm="final_norm",
    classifier=ClassifierNames("head.dense", "gelu", "head.norm"),
    heads=("head.", "decoder."),
)
_NOMIC = Family(
    "nomic_bert",
    EmbeddingNames(norm="emb_ln"),
    LayerNames(
        "encoder.layers",
        ("attn.Wqkv",),
        "attn.out_proj",
        "norm1",
        ("mlp.fc12", "mlp.fc11"),
        "mlp.fc2",
        "norm2",
    ),
)

FAMILIES = {
    "Bert": _BERT,
    "Camembert": _ROBERTA,
    "DistilBert": _DISTILBERT,
    "ModernBert": _MODERNBERT,
    "NomicBert": _NOMIC,
    "Roberta": _ROBERTA,
    "XLMRoberta": _ROBERTA,
}
CLASSIFIER = "ForSequenceClassification"
_HEADS = ("Model", "ForMaskedLM", "ForPreTraining", CLASSIFIER)

# architectures of config.json -> the name of the family
ENCODERS = {f"{name}{head}": name for name in FAMILIES for head in _HEADS}


def family_of(architecture: str) -> Family:
    """The family of an architecture of `ENCODERS`. Raises LoadError for others."""
    if architecture not in ENCODERS:
        raise LoadError(f"{architecture} is no encoder; encoders are {', '.join(FAMILIES)}.")
    return FAMILIES[ENCODERS[architecture]]
