"""Token ids to text as they arrive. Knows no stop strings and no sampling."""

import codecs
from collections.abc import Collection, Sequence

from engine.text.decoding import Piece
from engine.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Streams the text of one answer: a function of the ids pushed, whatever their grouping.

    Never splits a character, never holds back a complete one, skips special tokens unless it is
    told to show them. All pushes and the flush together are what `Tokenizer.decode` makes of all
    the ids, with one exception: where a run of `<0xNN>` tokens turns out not to be UTF-8, the full
    decode gives up the whole run, while here its characters before the fault were already shown.

    `shown_ids` are special tokens that are shown all the same. `is_continuation`: the text goes on
    from a prompt, so a SentencePiece vocabulary's first space is a space.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        is_continuation: bool = False,
        skip_special_tokens: bool = True,
        shown_ids: Collection[int] = (),
    ) -> None:
        rule = tokenizer.rule
        self._tokenizer = tokenizer
        self._assembler = _ByteLevel() if rule.is_byte_level else _ByteFallback()
        self._lead = rule.lead
        skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._skipped_ids = skipped - frozenset(shown_ids)
        self._max_lead = 0 if is_continuation else rule.max_lead
        self._expects_first = rule.treats_first and not is_continuation

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is complete with these ids."""
        piece, take = self._tokenizer.piece, self._assembler.take
        visible = [i for i in token_ids if i not in self._skipped_ids]
        first = self._first(visible) if self._expects_first else ""
        return self._without_lead(first + "".join([take(piece(i)) for i in visible]))

    def _first(self, visible: list[int]) -> str:
        """Take the text's first token off the list: one that the vocabulary has."""
        while visible:
            token_id = visible.pop(0)
            if self._tokenizer.has(token_id):
                self._expects_first = False
                return self._assembler.take(self._tokenizer.first_piece(token_id))
        return ""

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._without_lead(self._assembler.finish())

    def _without_lead(self, text: str) -> str:
        if not self._max_lead or not text:
            return text
        cut = 0
        while cut < min(self._max_lead, len(text)) and text[cut] == self._lead:
            cut += 1
        self._max_lead = self._max_lead - cut if cut == len(text) else 0
        return text[cut:]


class _ByteLevel:
    """Every piece is bytes; faults become U+FFFD as in any lossy UTF-8 decoder."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, piece: Piece) -> str:
        return self._decoder.decode(piece if isinstance(piece, bytes) else piece.encode())

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _ByteFallback:
    """Pieces are text, or single bytes in runs. After a run's first fault each byte is a U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._num_open = 0  # bytes of the character that is not complete yet
        self._is_broken = False

    def take(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return self.finish() + piece if piece else ""
        if self._is_broken:
            return _REPLACEMENT
        return self._take_byte(piece)

    def _take_byte(self, byte: bytes) -> str:
        self._num_open += 1
        try:
            text = self._decoder.decode(byte)
        except UnicodeDecodeError:
            self._is_broken = True
            return self._give_up()
        if text:
            self._num_open = 0
        return text

    def finish(self) -> str:
        """End a run of bytes."""
        text = self._give_up()
        self._is_broken = False
        return text

    def _give_up(self) -> str:
        text, self._num_open = _REPLACEMENT * self._num_open, 0
        self._decoder.reset()
        return text
