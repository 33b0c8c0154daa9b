"""One answer's text: token ids in, text to show out. Knows no engine and no log."""

from collections.abc import Collection, Sequence

from engine.text.detokenizer import Detokenizer
from engine.text.stop_strings import StopStrings
from engine.text.tokenizer import Tokenizer


class Answer:
    """Detokenizer and stop strings of an answer. `finish` is set once, by engine or stop string.

    `token_ids` end with the token that completed a stop string. Pushing the same ids again brings a
    new answer to the same state. `is_continuation`, `skip_special_tokens` and `shown_ids` are as
    `Detokenizer` has them; with `includes_stop` the stop string that is met is shown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        is_continuation: bool,
        skip_special_tokens: bool = True,
        includes_stop: bool = False,
        shown_ids: Collection[int] = (),
    ) -> None:
        self.token_ids: list[int] = []
        self.finish: str | None = None
        self.cached_tokens = 0
        self._detokenizer = Detokenizer(tokenizer, is_continuation, skip_special_tokens, shown_ids)
        self._stops = StopStrings(stops, is_shown=includes_stop) if stops else None

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return None if self._stops is None else self._stops.matched

    def take(self, token_ids: Sequence[int], finish: str | None) -> tuple[tuple[int, ...], str]:
        """What one step made: its ids, up to the one that completes a stop string, and their text.

        `finish` is the engine's word on the end.
        """
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
        return taken, text

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
