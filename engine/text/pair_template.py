"""The template by which a reranker that is a language model is shown a pair. Knows no tokens.

Its messages are one of the role `query` and one of the role `document`, which sentence-transformers
and vLLM agree on; a model's files have it in the place of a chat template.
"""

import logging
import re

import msgspec

from engine.json_file import read_json
from engine.text.bundled_templates import read_bundled
from engine.text.chat_template import ChatTemplate
from engine.text.text_model import TextModel
from engine.weights.files import ModelFiles

logger = logging.getLogger(__name__)

ROLES = ("query", "document")
# Rerankers published before there was this convention, whose model cards have the form.
_BUNDLED = {"Qwen3ForCausalLM": "qwen3-reranker"}


class _Config(msgspec.Struct):
    architectures: list[str] = []


def is_for_pairs(template: ChatTemplate | None) -> bool:
    """True for a template that looks for both roles."""
    return template is not None and all(
        re.search(rf"""['"]{role}['"]""", template.source) for role in ROLES
    )


def with_pair_template(text: TextModel, files: ModelFiles) -> TextModel:
    """A scorer's text side, with the bundled template that its family needs if it brings none."""
    name = _bundled(files) if files.kind == "plain" else None
    if name is None or is_for_pairs(text.chat_template):
        return text
    logger.info("%s has no template for pairs; the bundled %s is used", files.name, name)
    special_tokens = text.tokenizer.special_tokens
    return text._replace(chat_template=ChatTemplate(read_bundled(name), special_tokens))


def _bundled(files: ModelFiles) -> str | None:
    known = read_json(files.directory / "config.json", _Config).architectures
    return _BUNDLED.get(known[0]) if known else None
