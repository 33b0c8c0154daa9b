"""A model's text side: its tokenizer, chat template and sampling defaults. Knows no tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.text.bundled_templates import NAMES, pick_bundled, read_bundled
from engine.text.chat_template import ChatTemplate
from engine.text.generation_config import GenerationDefaults, read_generation_config
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.hf_tokenizer import load_tokenizer
from engine.text.template_files import TemplateChoice, TemplateSource, find_template
from engine.text.tokenizer import Tokenizer
from engine.weights.files import ModelFiles
from engine.weights.gguf_metadata import read_gguf

# Tokens that end a turn in some template, and so an answer, even if no file says so.
_TURN_ENDS = (
    *("<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|end|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|eot|>", "<|endoftext|>", "<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<turn|>"),
)


class TextModel(NamedTuple):
    """The text side of a model; `chat_template` is None for a model that cannot chat."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults


def load_text_model(files: ModelFiles, choice: TemplateChoice | None = None) -> TextModel:
    """Read a model's text side, its template as `choice` says or as found.

    With `files.tokenizer`, the tokenizer, its config and its template are read there; what that
    directory is silent on, the weights' own files say. Raises LoadError: one sentence that says
    what to do.
    """
    metadata = _metadata(files)
    tokenizer = _tokenizer(files, metadata)
    directories = _directories(files)
    generation = read_generation_config(directories, metadata)
    source = _template(tokenizer, files, choice or TemplateChoice(), directories, metadata)
    eos_ids = generation.eos_ids | _turn_ends(tokenizer, source)
    return TextModel(
        tokenizer.with_eos_ids(eos_ids), _chat_template(tokenizer, source), generation.defaults
    )


def load_vocabulary(files: ModelFiles) -> Tokenizer:
    """The tokenizer alone, as the files have it. Raises LoadError."""
    return _tokenizer(files, _metadata(files))


def _metadata(files: ModelFiles) -> dict[str, Any]:
    """The keys of the weights' file that concern text; a GGML file has a vocabulary only."""
    if files.kind == "gguf":
        return read_gguf(files.weights).metadata
    if files.kind == "ggml" and files.tokenizer is None:
        from engine.weights.ggml_vocab import read_ggml_vocab

        return read_ggml_vocab(files.weights[0])
    return {}


def _tokenizer(files: ModelFiles, metadata: dict[str, Any]) -> Tokenizer:
    if files.tokenizer is not None:
        return load_tokenizer(files.tokenizer)
    return load_tokenizer(files.directory) if files.kind == "plain" else build_tokenizer(metadata)


def _directories(files: ModelFiles) -> list[Path]:
    return [files.directory] if files.tokenizer is None else [files.tokenizer, files.directory]


def _template(
    tokenizer: Tokenizer,
    files: ModelFiles,
    choice: TemplateChoice,
    directories: Sequence[Path],
    metadata: dict[str, Any],
) -> TemplateSource | None:
    bundled = {name: read_bundled(name) for name in NAMES}
    source = find_template(choice, directories, metadata, bundled)
    if source is not None:
        return source
    plain = pick_bundled(tokenizer, files.name)
    return None if plain is None else TemplateSource(plain=plain)


def _turn_ends(tokenizer: Tokenizer, source: TemplateSource | None) -> set[int]:
    """The ends that the template writes, and the one that a user's template file names."""
    if source is None:
        return set()
    text = source.plain + (source.tools or "")
    ends = {token for token in _TURN_ENDS if token in text}
    ends |= {token for name, token in source.special_tokens.items() if name == "eos_token"}
    ids = (tokenizer.token_to_id(token) for token in ends)
    return {id_ for id_ in ids if id_ is not None}


def _chat_template(tokenizer: Tokenizer, source: TemplateSource | None) -> ChatTemplate | None:
    if source is None:
        return None
    special_tokens = tokenizer.special_tokens | dict(source.special_tokens)
    return ChatTemplate(source.plain, special_tokens, source.tools)
