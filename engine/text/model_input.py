"""A text, or a pair of texts, as an encoder's input: special tokens, token types, cuts. Knows no
model.

The tokenizer's own post-processor places the special tokens (`[CLS] … [SEP] … [SEP]`, `<s> …
</s></s> … </s>`, an end that embeddings are read at); a cut leaves them whole.
"""

from typing import NamedTuple

import tokenizers


class ModelInput(NamedTuple):
    """Token ids and the type of each: which of a pair's texts it belongs to, where that counts."""

    ids: list[int]
    type_ids: list[int]


def model_input(
    backend: tokenizers.Tokenizer,
    texts: tuple[str] | tuple[str, str],
    max_tokens: int = 0,
    max_second: int = 0,
) -> ModelInput:
    """The input of one text, or of a pair; special tokens written out in them count as such.

    It has `max_tokens` at most, if that is not 0: the ends of texts are dropped, the longer one's
    first, as transformers does it; `max_second` bounds a pair's second text before that. Raises
    TypeError or UnicodeEncodeError for what is not Unicode.
    """
    # A batch: unlike `encode`, it lets other threads run, for minutes if the text is long.
    first, *rest = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    second = rest[0] if rest else None
    if second is not None and max_second:
        second.truncate(max_second)
    if max_tokens:
        room = max(max_tokens - backend.num_special_tokens_to_add(second is not None), 0)
        shares = _shares(len(first), 0 if second is None else len(second), room)
        first.truncate(shares[0])
        if second is not None:
            second.truncate(shares[1])
    if second is not None and backend.post_processor is None:
        return ModelInput(first.ids + second.ids, [0] * len(first) + [1] * len(second))
    whole = backend.post_process(first, second, add_special_tokens=True)
    return ModelInput(whole.ids, whole.type_ids)


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay: the shorter one's all, unless both exceed their half."""
    if first + second <= room:
        return first, second
    if first <= second:
        kept = min(first, room // 2)
        return kept, room - kept
    kept = min(second, room // 2)
    return room - kept, kept
