"""The built-in model's tokenizer: trained here, written as Hugging Face files. Knows no model."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from engine.builtin.corpus.documents import Document, Message

BOS, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
ROLE_TOKENS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

# Llama 3's split: each number up to 999 may be one token, which makes counting and sums easy
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NUM_COUNTS = 500

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- set role = {'developer': 'system', 'tool': 'user'}.get(message.role, message.role) %}
{%- if role not in ('system', 'user', 'assistant') %}
{{- raise_exception('unknown role: ' ~ message.role) }}
{%- endif %}
{{- '<|' ~ role ~ '|>' }}
{%- if message.content is string %}
{{- message.content }}
{%- elif message.content %}
{%- for part in message.content if part.type == 'text' %}
{{- part.text }}
{%- endfor %}
{%- endif %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}"""


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; any text round-trips. The special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # often enough that every number that the model counts and sums with becomes one token
    numbers = [" ".join(map(str, range(101)))] * NUM_COUNTS
    tokenizer.train_from_iterator([*texts, *numbers], trainer)
    bos_id = token_id(tokenizer, BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    return tokenizer


def encode_document(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """Token ids, and which of them the model has to learn to write: its answers, and plain text."""
    if isinstance(document, str):
        ids = [*tokenizer.encode(document).ids, token_id(tokenizer, END)]
        return ids, [False] + [True] * (len(ids) - 1)
    return _encode_chat(tokenizer, document)


def _encode_chat(tokenizer: Tokenizer, chat: Sequence[Message]) -> tuple[list[int], list[bool]]:
    ids, is_target = [token_id(tokenizer, BOS)], [False]
    for message in chat:
        body = tokenizer.encode(message.content, add_special_tokens=False).ids
        ids += [token_id(tokenizer, ROLE_TOKENS[message.role]), *body, token_id(tokenizer, END)]
        is_target += [False] + [message.role == "assistant"] * (len(body) + 1)
    return ids, is_target


def save_tokenizer(tokenizer: Tokenizer, out: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, the chat template inside."""
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": BOS,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
