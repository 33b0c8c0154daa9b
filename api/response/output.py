"""The items of a response's output as they grow. Pure; knows no events of a stream."""

from collections.abc import Iterator, Mapping

import msgspec

from api.logprobs import chat_logprobs
from api.response.item import Item, Kind, output_id
from api.schema.response import ChatToken
from api.schema.response_items import ItemMessage, ItemResult, ItemStatus, OutputItem, OutputText
from api.spoken import Part, Piece, Spoken
from workers import contract

_KINDS: Mapping[str, Kind] = {
    "reasoning": "reasoning",
    "text": "message",
    "call": "function_call",
}


class Growing:
    """An item of the output."""

    def __init__(self, response_id: str, index: int, part: Part) -> None:
        self.index = index
        self.kind = _KINDS[part.kind]
        self.id = output_id(response_id, index, self.kind)
        self.part = part
        self.logprobs: list[ChatToken] = []

    @property
    def name(self) -> str:
        """The function that a call is of."""
        return "" if self.part.call is None else self.part.call.name or ""

    def output_text(self) -> OutputText:
        """What a message says."""
        return OutputText(self.part.text, logprobs=self.logprobs)

    def item(self, status: ItemStatus) -> Item:
        """The item as a part of a longer conversation."""
        call_id = "" if self.part.call is None else self.part.call.id or ""
        texts = (self.part.text,)
        return Item(self.id, "assistant", texts, status, self.kind, call_id, self.name)

    def view(self, status: ItemStatus) -> OutputItem:
        """OpenAI's form."""
        view = self.item(status).view()
        if isinstance(view, ItemMessage):
            return msgspec.structs.replace(view, content=[self.output_text()])
        assert not isinstance(view, ItemResult)
        return view


class Output:
    """What the events so far have made of the output."""

    def __init__(self, job: contract.Job) -> None:
        self.items: list[Growing] = []
        self.told: list[ChatToken] = []  # the tokens of the text that was said last
        self._response_id = job.id
        self._spoken = Spoken()
        self._held: list[contract.TokenLogprob] = []  # of tokens whose text is still to come

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that were thought and not said."""
        return self._spoken.reasoning_tokens

    def pieces(self, delta: contract.Delta) -> Iterator[Piece]:
        """What one step made; each has to be said before the next is taken."""
        self._held += delta.logprobs or ()
        yield from self._spoken.pieces(delta)
        if self.items and self.items[-1].kind != "message":
            self._held.clear()

    def say(self, piece: Piece) -> bool:
        """Put a piece where it belongs; true if it began an item."""
        begins = self._spoken.say(piece)
        if begins:
            self.items.append(Growing(self._response_id, len(self.items), self._spoken.parts[-1]))
        if piece.kind == "text":
            self.told = chat_logprobs(self._held).content if self._held else []
            self.items[-1].logprobs += self.told
            self._held.clear()
        return begins

    def end(self) -> None:
        """An answer that says nothing is an empty message."""
        if not self.items:
            self.say(Piece("text", ""))
