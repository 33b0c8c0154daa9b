"""Loads a decoder for vectors or scores: without the language model's head, with a task's own."""

from collections.abc import Collection
from typing import Annotated

import msgspec
import torch
from torch import nn

from engine.config import EngineConfig, ModelConfig, Task
from engine.device import choose_dtype
from engine.encoders.families import ClassifierNames
from engine.errors import LoadError
from engine.json_file import read_json
from engine.loading import load_model
from engine.models.registry import CLASSIFIER
from engine.pooling.decoder import CausalStates
from engine.pooling.heads import ScoreHead, TokenScoreHead
from engine.pooling.parts import Parts, embedding_head, names_with
from engine.pooling.recipe import read_recipe
from engine.pooling.score_recipe import read_score_settings, scale_of
from engine.text.text_model import load_vocabulary
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.loader import Loader
from engine.weights.progress import Progress
from engine.weights.renamed import Renamed
from engine.weights.rope_scaling import rope_switch
from engine.weights.task import read_architecture, scores_by_token

_SCORE = ClassifierNames(output="score")
_HEADS = ("lm_head.", "score.")
_EMBEDDING = "model.embed_tokens.weight"


class _Directions(msgspec.Struct):
    is_causal: bool | None = None
    use_bidirectional_attention: bool | str | None = None


class _Tokens(msgspec.Struct):
    """sentence-transformers' LogitScore module."""

    true_token_id: Annotated[int, msgspec.Meta(ge=0)]
    false_token_id: Annotated[int, msgspec.Meta(ge=0)] | None = None


def load_decoder(
    files: ModelFiles,
    task: Task,
    config: EngineConfig,
    device: torch.device,
    progress: Progress | None,
) -> Parts:
    """A decoder of `MODELS` whose last token's state, or what the files say, is the vector.

    Raises LoadError.
    """
    _check_causal(files)
    checkpoint = open_checkpoint(files)
    # Tied, the head takes no memory; it is never asked.
    shape = msgspec.structs.replace(checkpoint.config, tie_word_embeddings=True, lm_head_bias=False)
    names = decoder_names(checkpoint.names())
    dtype = choose_dtype(config, shape, device)
    decoder = load_model(Renamed(checkpoint, names, shape), config, dtype, device, progress)
    states = CausalStates(decoder, rope_switch(shape, shape.context_length))
    if task == "score":
        head = _score_head(files, checkpoint, names, shape, device)
        return Parts(states, head, shape, dtype)
    recipe = read_recipe(files, "lasttoken")
    return Parts(states, embedding_head(files, recipe, shape, device), shape, dtype, recipe)


def decoder_names(stored: Collection[str]) -> dict[str, str]:
    """The tensors below the head, under the names that they have below one: plain -> stored."""
    prefix = "model." if "embed_tokens.weight" in stored else ""
    return {f"{prefix}{name}": name for name in stored if not name.startswith(_HEADS)}


def _check_causal(files: ModelFiles) -> None:
    if files.kind != "plain":
        return
    path = files.directory / "config.json"
    directions = read_json(path, _Directions)
    if directions.is_causal is False or directions.use_bidirectional_attention:
        raise LoadError(
            f"{path} asks a decoder to look both ways, which is not supported; serve an encoder "
            "or a causal embedding model."
        )


def _score_head(
    files: ModelFiles,
    checkpoint: Checkpoint,
    names: dict[str, str],
    shape: ModelConfig,
    device: torch.device,
) -> "ScoreHead | TokenScoreHead":
    path = files.directory / "config.json"
    settings = read_score_settings(files.directory)
    if not read_architecture(files).endswith(CLASSIFIER):
        tokens = _answer_tokens(files, shape.vocab_size)
        stored = "lm_head.weight"
        rows = checkpoint.tensor(stored if stored in checkpoint.names() else names[_EMBEDDING])
        no = None if tokens.false_token_id is None else rows[tokens.false_token_id]
        scale = scale_of(settings, 1, path)
        return TokenScoreHead(rows[tokens.true_token_id], no, scale).to(device)
    loader = Loader(Renamed(checkpoint, names_with(checkpoint, "score.")), 0, None)
    num_labels = loader.checkpoint.shape("score.weight")[0]
    scale = scale_of(settings, num_labels, path)
    head = ScoreHead(_SCORE, "lasttoken", nn.Identity(), scale)
    head.load(loader, shape.hidden_size, shape.norm_eps, device)
    return head


def _answer_tokens(files: ModelFiles, vocab_size: int) -> _Tokens:
    """The tokens whose likelihoods a reranker compares: those a module names, or "yes" and "no"."""
    if module := scores_by_token(files):
        path = files.directory / module.path / "config.json"
        tokens = read_json(path, _Tokens)
        if max(tokens.true_token_id, tokens.false_token_id or 0) >= vocab_size:
            raise LoadError(f"{path} names tokens that the model, with {vocab_size}, has not.")
        return tokens
    vocabulary = load_vocabulary(files)
    yes, no = vocabulary.token_to_id("yes"), vocabulary.token_to_id("no")
    if yes is None or no is None:
        raise LoadError(f"{files.name} has no tokens yes and no, by which a decoder scores.")
    return _Tokens(yes, no)
