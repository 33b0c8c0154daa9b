"""One answer of a job, as deltas for its log. Knows no log; replayed ids restore it."""

from collections.abc import Sequence

from engine.text.answer import Answer
from engine.text.tokenizer import Tokenizer
from workers.contract import Delta


class Choice(Answer):
    """Answer number `number` of a job."""

    def __init__(
        self, number: int, tokenizer: Tokenizer, stops: Sequence[str], *, is_continuation: bool
    ) -> None:
        super().__init__(tokenizer, stops, is_continuation=is_continuation)
        self.number = number

    def push(self, token_ids: Sequence[int], finish: str | None) -> Delta:
        """Take what one step made, up to the token that completes a stop string."""
        taken, text = self.take(token_ids, finish)
        return Delta(self.number, taken, text, self.finish)
