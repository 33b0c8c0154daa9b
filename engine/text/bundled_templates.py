"""Chat templates for models that bring none, in templates/. Knows no messages and no models.

A template is chosen only where the vocabulary has the special tokens that it writes. Where those
are no more than `</s>`, which says nothing of a chat, the model's name has to say the family.
"""

import logging
import re
from importlib import resources

import msgspec

from engine.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class _Bundled(msgspec.Struct, frozen=True):
    file: str
    tokens: tuple[str, ...]
    model_name: str = ""  # a regular expression
    is_byte_level: bool | None = None

    def suits(self, tokenizer: Tokenizer, model_name: str) -> bool:
        if self.is_byte_level not in (None, tokenizer.rule.is_byte_level):
            return False
        if not re.search(self.model_name, model_name, re.IGNORECASE):
            return False
        return all(is_special(tokenizer, token) for token in self.tokens)


_ENDS = ("<s>", "</s>")
_BUNDLED = (
    _Bundled("qwen3-reranker", ("<|im_start|>", "<|im_end|>"), r"qwen3-reranker"),
    _Bundled("chatml", ("<|im_start|>", "<|im_end|>")),
    _Bundled("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    _Bundled("gemma", ("<start_of_turn>", "<end_of_turn>")),
    _Bundled("phi3", ("<|user|>", "<|assistant|>", "<|end|>")),
    _Bundled("mistral-tekken", ("[INST]", "[/INST]"), is_byte_level=True),
    _Bundled("mistral-v3", ("[INST]", "[/INST]"), is_byte_level=False),
    _Bundled("zephyr", _ENDS, r"zephyr|tinyllama.*chat"),
    _Bundled("vicuna", _ENDS, r"vicuna"),
    _Bundled("llama2", _ENDS, r"llama-?2.*chat|codellama.*instruct"),
    _Bundled("mistral-v1", _ENDS, r"mi[sx]tral.*instruct"),
)
NAMES = tuple(bundled.file for bundled in _BUNDLED)


def is_special(tokenizer: Tokenizer, token: str) -> bool:
    """Whether the vocabulary has this token, and as a special one."""
    return tokenizer.token_to_id(token) in tokenizer.special_ids


def read_bundled(name: str) -> str:
    """The text of one of `NAMES`."""
    return (resources.files("engine.text") / "templates" / f"{name}.jinja").read_text("utf-8")


def pick_bundled(tokenizer: Tokenizer, model_name: str) -> str | None:
    """The template that suits a model without one, said in the log; None if none does."""
    for bundled in _BUNDLED:
        if bundled.suits(tokenizer, model_name):
            logger.info(
                "%s has no chat template; the bundled %s suits its special tokens and is used",
                model_name,
                bundled.file,
            )
            return read_bundled(bundled.file)
    return None
