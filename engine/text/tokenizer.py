"""Text to token ids and back, over the `tokenizers` library. Knows no file format and no chat."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import processors

from engine.errors import InvalidInput
from engine.text.control_text import ControlText
from engine.text.decoding import DecodeRule, Piece


class Encoded(NamedTuple):
    """A text or a pair of texts as a model reads it: ids, and the type of each."""

    ids: list[int]
    type_ids: list[int]


class Tokenizer:
    """A model's vocabulary.

    `special_tokens` holds the named ones (`bos_token`, `eos_token`, …) as chat templates see them;
    `eos_ids` are the ids that end an answer; `vocab_size` is the highest id plus one, and may be
    below the model's own. `control_text` finds the texts of special tokens and ends that a message
    must not make.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        rule: DecodeRule,
        special_tokens: Mapping[str, str],
        eos_ids: Iterable[int] = (),
    ) -> None:
        self.rule = rule
        self.special_tokens = dict(special_tokens)
        self.bos_id = self._named_id(backend, "bos_token")
        eos_id = self._named_id(backend, "eos_token")
        self.eos_ids = frozenset(eos_ids) | ({eos_id} if eos_id is not None else frozenset())
        self.vocab_size = 1 + max(backend.get_vocab().values(), default=-1)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self._added = {id_: token.content for id_, token in added.items()}
        self.control_text = self._control_text()
        self._backend = backend
        self._pieces: dict[int, Piece] = {}

    @property
    def drops_first_space(self) -> bool:
        """Whether a space at the very beginning of a text is not shown."""
        return bool(self.rule.unspaced) or (self.rule.max_lead > 0 and self.rule.lead == " ")

    def _named_id(self, backend: tokenizers.Tokenizer, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else backend.token_to_id(token)

    def with_eos_ids(self, eos_ids: Iterable[int]) -> "Tokenizer":
        """The same vocabulary with more ids that end an answer."""
        other = copy.copy(self)
        other.eos_ids = self.eos_ids | frozenset(eos_ids)
        other.control_text = other._control_text()
        return other

    def _control_text(self) -> ControlText:
        control_ids = self._added.keys() & (self.special_ids | self.eos_ids)
        return ControlText(self._added[id_] for id_ in control_ids)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written out in it count as such.

        `add_special_tokens` adds BOS and EOS where the model wants them. Raises InvalidInput for
        text that is not Unicode.
        """
        return self._encodings([text], add_special_tokens)[0].ids

    def _encodings(
        self, texts: Sequence[str], add_special_tokens: bool
    ) -> list[tokenizers.Encoding]:
        try:  # a batch: unlike `encode`, it lets other threads run, for minutes if the text is long
            return self._backend.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidInput(
                "The text has half of a surrogate pair; it is not Unicode."
            ) from error

    def encode_text(
        self, text: str, max_tokens: int | None = None, max_own: int | None = None
    ) -> Encoded:
        """What an embedding model reads: `text` with the special tokens that the model wants.

        With `max_tokens` the text loses its end until all of it, those included, is no longer;
        with `max_own`, until it has no more tokens of its own.
        Raises InvalidInput for text that is not Unicode, or if not even they have room.
        """
        parts = self._encodings([text], False)
        if max_own is not None:
            parts[0].truncate(max_own)
        return self._joined(parts, max_tokens)

    def encode_pair(
        self,
        first: str,
        second: str,
        max_tokens: int | None = None,
        max_second: int | None = None,
    ) -> Encoded:
        """What a cross-encoder reads: two texts, parted as the model wants.

        With `max_tokens` the longer one loses its end first, after the second one was cut to
        `max_second` tokens of its own. Raises InvalidInput as `encode_text`.
        """
        parts = self._encodings([first, second], False)
        if max_second is not None:
            parts[1].truncate(max_second)
        return self._joined(parts, max_tokens)

    def _joined(self, parts: list[tokenizers.Encoding], max_tokens: int | None) -> Encoded:
        if max_tokens is not None:
            num_added = self._backend.num_special_tokens_to_add(len(parts) > 1)
            if max_tokens < num_added:
                raise InvalidInput(
                    f"{max_tokens} tokens have no room for the {num_added} that the model adds."
                )
            lengths = shortened([len(part) for part in parts], max_tokens - num_added)
            for part, length in zip(parts, lengths, strict=True):
                part.truncate(length)
        first, second = parts[0], parts[1] if len(parts) > 1 else None
        joined = self._backend.post_process(first, second)
        return Encoded(joined.ids, joined.type_ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`, all at once; `Detokenizer` gives the same piece by piece."""
        # as a batch for the same reason as in `_encodings`
        return self._backend.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)[0]

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        return self._backend.token_to_id(token)

    def piece(self, token_id: int) -> Piece:
        """What a token adds to the text; nothing for an id that the vocabulary has not."""
        piece = self._pieces.get(token_id)
        if piece is None:
            token = self._backend.id_to_token(token_id)
            piece = self._pieces[token_id] = "" if token is None else self.rule.piece(token)
        return piece

    def has(self, token_id: int) -> bool:
        """Whether the vocabulary has this id."""
        return self._backend.id_to_token(token_id) is not None

    def first_piece(self, token_id: int) -> Piece:
        """What a token adds as the first one of a text."""
        token = self._backend.id_to_token(token_id)
        return "" if token is None else self.rule.first_piece(token)

    def token_bytes(self, token_id: int) -> bytes:
        """`piece` as UTF-8 bytes."""
        piece = self.piece(token_id)
        return piece.encode() if isinstance(piece, str) else piece


def shortened(lengths: Sequence[int], limit: int) -> list[int]:
    """The lengths of one text or two that have `limit` tokens together, the longer cut first.

    Which of two gets the odd token is as in the `tokenizers` library (LongestFirst).
    """
    if sum(lengths) <= limit or len(lengths) == 1:
        return [min(length, limit) for length in lengths]
    first, second = lengths
    shorter = min(first, second)
    if 2 * shorter <= limit:
        return [first, limit - first] if first <= second else [limit - second, second]
    half = limit // 2
    return [half, limit - half] if first <= second else [limit - half, half]


def set_added_ends(
    backend: tokenizers.Tokenizer, bos_token: str | None, eos_token: str | None
) -> None:
    """Make `backend` add these, and nothing else, when it is asked for special tokens."""
    ends = [token for token in (bos_token, eos_token) if token is not None]
    single = [*([bos_token] if bos_token else []), "$A", *([eos_token] if eos_token else [])]
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, "$B"],
        special_tokens=[(token, backend.token_to_id(token)) for token in ends],
    )
