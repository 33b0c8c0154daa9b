"""How a piece of text from the middle of an answer is spelled in tokens. Knows no grammar.

A tokenizer's `encode` is for whole texts: SentencePiece puts a space before, some normalize, and
what reads like a special token becomes one.
"""

from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

# What may stand before a piece of text, without a token that holds some of both.
_BEFORE = ("\n", "\x02", ".", "0")


# Of a longer text the beginning is spelled: it is asked for again at every token.
MAX_CHARS = 256
_NEAR_CUT = 8  # tokens that would perhaps be others if the text went on


class Spelling:
    """Spells texts in the tokens `pieces`, bytes by id, none of them special."""

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[bytes]) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        is_text = [bool(piece) for piece in pieces]
        for id_ in tokenizer.special_ids:
            if id_ < len(is_text):
                is_text[id_] = False
        self._is_text = is_text
        self._ids_by_piece: dict[bytes, int] = {}
        self._longest = 0

    def ids(self, text: str) -> list[int]:
        """Token ids whose bytes are exactly `text`, as the tokenizer would cut it if it can.

        They end early where no token has the next byte, or the text is long.
        """
        if len(text) <= MAX_CHARS:
            return self._ids_of(text)
        beginning = text[:MAX_CHARS]
        ids = self._ids_of(beginning.rstrip() or beginning)  # some tokenizers drop a last space
        return ids[:-_NEAR_CUT] or ids

    def _ids_of(self, text: str) -> list[int]:
        wanted = text.encode()
        if self._spells(ids := self._encode(text), wanted):
            return ids
        for before in _BEFORE:
            head = self._encode(before)
            ids = self._encode(before + text)
            if ids[: len(head)] == head and self._spells(ids[len(head) :], wanted):
                return ids[len(head) :]
        return self._greedy(wanted)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _spells(self, ids: Sequence[int], wanted: bytes) -> bool:
        num_ids = len(self._pieces)
        if not all(id_ < num_ids and self._is_text[id_] for id_ in ids):
            return False
        return b"".join([self._pieces[id_] for id_ in ids]) == wanted

    def _greedy(self, wanted: bytes) -> list[int]:
        """Always the longest token that fits."""
        if not self._ids_by_piece:
            self._ids_by_piece = {
                piece: id_ for id_, piece in enumerate(self._pieces) if self._is_text[id_]
            }
            self._longest = max(map(len, self._ids_by_piece), default=0)
        ids: list[int] = []
        while wanted:
            sizes = range(min(self._longest, len(wanted)), 0, -1)
            size = next((size for size in sizes if wanted[:size] in self._ids_by_piece), 0)
            if not size:
                break
            ids.append(self._ids_by_piece[wanted[:size]])
            wanted = wanted[size:]
        return ids
