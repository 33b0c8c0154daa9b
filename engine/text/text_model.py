"""A model's text side: its tokenizer, chat template and sampling defaults. Knows no tensors."""

from typing import Any, NamedTuple

from engine.text.chat_template import ChatTemplate
from engine.text.generation_config import GenerationDefaults, read_generation_config
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.hf_tokenizer import load_tokenizer
from engine.text.template_files import TemplateSource, find_template
from engine.text.tokenizer import Tokenizer
from engine.weights.files import ModelFiles
from engine.weights.gguf_metadata import read_gguf

# Tokens that end a turn in some template, and so an answer, even if no file says so.
_TURN_ENDS = ("<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|end|>", "<|eot_id|>")


class TextModel(NamedTuple):
    """The text side of a model; `chat_template` is None for a model that cannot chat."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults


def load_text_model(files: ModelFiles) -> TextModel:
    """Read a model's text side. Raises LoadError: one sentence that says what to do."""
    metadata: dict[str, Any] = {}
    if files.kind == "gguf":
        metadata = read_gguf(files.weights).metadata
        tokenizer = build_tokenizer(metadata)
    else:
        tokenizer = load_tokenizer(files.directory)
    generation = read_generation_config(files.directory, metadata)
    source = find_template(files.directory, metadata)
    eos_ids = generation.eos_ids | _turn_ends(tokenizer, source)
    return TextModel(
        tokenizer.with_eos_ids(eos_ids), _chat_template(tokenizer, source), generation.defaults
    )


def _turn_ends(tokenizer: Tokenizer, source: TemplateSource | None) -> set[int]:
    text = "" if source is None else source.plain + (source.tools or "")
    ids = (tokenizer.token_to_id(token) for token in _TURN_ENDS if token in text)
    return {id_ for id_ in ids if id_ is not None}


def _chat_template(tokenizer: Tokenizer, source: TemplateSource | None) -> ChatTemplate | None:
    if source is None:
        return None
    return ChatTemplate(source.plain, tokenizer.special_tokens, source.tools)
