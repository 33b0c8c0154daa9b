"""A pair of texts as the prompt of a reranker that is a language model. Knows no job."""

from engine.text.chat_prompt import render_chat
from engine.text.chat_template import ChatTemplate
from engine.text.tokenizer import Tokenizer


class PairPrompt:
    """Shows pairs by a template; `now_s` is the time of the request."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, now_s: float) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._now_s = now_s

    def encode(
        self, query: str, document: str, max_tokens: int | None, max_document: int | None
    ) -> list[int]:
        """Token ids. The document loses its end until it has `max_document` tokens at most and all
        of it `max_tokens`; without a document it may still have more. Raises InvalidInput.
        """
        if max_document is not None:
            document = self._beginning(document, max_document)
        ids = self._shown(query, document)
        while max_tokens is not None and len(ids) > max_tokens and document:
            document = self._beginning(document, max_tokens - len(ids))
            ids = self._shown(query, document)
        return ids

    def _shown(self, query: str, document: str) -> list[int]:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        prompt = render_chat(self._template, self._tokenizer, messages, now_s=self._now_s)
        return prompt.encode(self._tokenizer)

    def _beginning(self, text: str, count: int) -> str:
        """The text's first tokens; a negative count is of those to drop, one at least."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if len(ids) <= count:
            return text
        cut = self._tokenizer.decode(ids[:count], skip_special_tokens=False)
        return min(cut, text[:-1], key=len)  # a token may read back as more than was cut
