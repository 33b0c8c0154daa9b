"""One answer's text: token ids in, text to show out. Knows no log; replayed ids restore it."""

from collections.abc import Sequence

from engine.text.detokenizer import Detokenizer
from engine.text.stop_strings import StopStrings
from engine.text.tokenizer import Tokenizer
from workers.contract import Delta


class Choice:
    """Detokenizer and stop strings of an answer. `finish` is set once, by engine or stop string."""

    def __init__(
        self, number: int, tokenizer: Tokenizer, stops: Sequence[str], *, is_continuation: bool
    ) -> None:
        self.number = number
        self.token_ids: list[int] = []
        self.finish: str | None = None
        self.cached_tokens = 0
        self._detokenizer = Detokenizer(tokenizer, is_continuation)
        self._stops = StopStrings(stops) if stops else None

    def push(self, token_ids: Sequence[int], finish: str | None) -> Delta:
        """Take what one step made, up to the token that completes a stop string."""
        if self._stops is None:
            num_taken, text = len(token_ids), self._detokenizer.push(token_ids)
        else:
            num_taken, text, is_matched = self._push_until_stop(self._stops, token_ids)
            finish = "stop" if is_matched else finish
        if finish is not None:
            text, finish = self._end(text, finish)
        self.finish = finish
        taken = tuple(token_ids[:num_taken])
        self.token_ids += taken
        return Delta(self.number, taken, text, finish)

    def _push_until_stop(
        self, stops: StopStrings, token_ids: Sequence[int]
    ) -> tuple[int, str, bool]:
        shown = ""
        for count, token_id in enumerate(token_ids, start=1):
            text, is_matched = stops.push(self._detokenizer.push((token_id,)))
            shown += text
            if is_matched:
                return count, shown, True
        return len(token_ids), shown, False

    def _end(self, text: str, finish: str) -> tuple[str, str]:
        rest = self._detokenizer.flush()
        if self._stops is None:
            return text + rest, finish
        shown, is_matched = self._stops.push(rest)
        return text + shown + self._stops.flush(), "stop" if is_matched else finish
