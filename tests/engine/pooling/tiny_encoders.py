"""Tiny random encoders of every family, made by transformers. Knows nothing of the engine."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    NomicBertConfig,
    NomicBertForSequenceClassification,
    NomicBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from tests.engine.models.tiny import randomise

VOCAB_SIZE = 120
MAX_POSITIONS = 80

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_DISTIL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "dim": 64,
    "hidden_dim": 96,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_MODERN: dict[str, Any] = {
    **_SHAPE,
    "local_attention": 8,
    **dict.fromkeys(("bos_token_id", "cls_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    "pad_token_id": 0,
}

EMBEDDERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (BertConfig, BertModel, _SHAPE),
    "bert-tanh-gelu": (BertConfig, BertModel, {**_SHAPE, "hidden_act": "gelu_new"}),
    "bert-masked-lm": (BertConfig, BertForMaskedLM, _SHAPE),
    "roberta": (RobertaConfig, RobertaModel, {**_SHAPE, "type_vocab_size": 1}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {**_SHAPE, "type_vocab_size": 1}),
    "camembert": (CamembertConfig, CamembertModel, {**_SHAPE, "type_vocab_size": 1}),
    "distilbert": (DistilBertConfig, DistilBertModel, _DISTIL),
    "modernbert": (ModernBertConfig, ModernBertModel, _MODERN),
    "modernbert-biases": (
        ModernBertConfig,
        ModernBertModel,
        {**_MODERN, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
    "modernbert-masked-lm": (ModernBertConfig, ModernBertForMaskedLM, _MODERN),
    "nomic": (NomicBertConfig, NomicBertModel, _SHAPE),
}
SCORERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (BertConfig, BertForSequenceClassification, {**_SHAPE, "num_labels": 1}),
    "bert-3": (BertConfig, BertForSequenceClassification, {**_SHAPE, "num_labels": 3}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, {**_SHAPE, "num_labels": 1}),
    "xlm-roberta": (
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
        {**_SHAPE, "num_labels": 1, "type_vocab_size": 1},
    ),
    "distilbert": (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        {**_DISTIL, "num_labels": 1},
    ),
    "modernbert": (
        ModernBertConfig,
        ModernBertForSequenceClassification,
        {**_MODERN, "num_labels": 1},
    ),
    "modernbert-mean": (
        ModernBertConfig,
        ModernBertForSequenceClassification,
        {**_MODERN, "num_labels": 2, "classifier_pooling": "mean", "classifier_bias": True},
    ),
    "nomic": (NomicBertConfig, NomicBertForSequenceClassification, {**_SHAPE, "num_labels": 1}),
}


def make(recipe: tuple[Any, Any, dict[str, Any]], **changes: Any) -> PreTrainedModel:
    """A float32 model with every weight drawn at random."""
    config_class, model_class, values = recipe
    config = config_class(**{**values, **changes})
    config._attn_implementation = "eager"
    model: PreTrainedModel = model_class(config).float().eval()
    randomise(model)
    return model


def save(model: PreTrainedModel, directory: Path) -> Path:
    """Write the checkpoint as transformers does."""
    model.save_pretrained(directory)
    return directory


@torch.no_grad()
def states(model: PreTrainedModel, token_ids: list[int], **inputs: Any) -> Tensor:
    """The encoder's states [len(token_ids), hidden] by transformers."""
    found: Tensor = model.base_model(torch.tensor([token_ids]), **inputs).last_hidden_state[0]
    return found


@torch.no_grad()
def logits(model: PreTrainedModel, token_ids: list[int], **inputs: Any) -> Tensor:
    """The classifier's logits [labels] by transformers."""
    found: Tensor = model(torch.tensor([token_ids]), **inputs).logits[0]
    return found


def texts() -> list[list[int]]:
    """Sequences from one token to far past the window of the recipes."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
        for length in (1, 9, 33, 70)
    ]
