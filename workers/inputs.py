"""Turns a job of embeddings or scores into the inputs of a model: tokens, pairs, limits.

Knows no Redis.
"""

from collections.abc import Iterator
from typing import NamedTuple

from engine.errors import EngineError, InvalidInput
from engine.messages import EngineInfo
from engine.text.pair_template import is_for_pairs
from engine.text.text_model import TextModel
from engine.text.tokenizer import Encoded
from workers.contract import Job
from workers.pair_prompt import PairPrompt
from workers.prepare import MAX_CHARS_PER_TOKEN, check_ids, tokens_beyond
from workers.vector_run import Input

MAKES = {
    "generate": "generates text",
    "embed": "makes embeddings",
    "score": "scores pairs of texts",
}


class OtherTask(EngineError):
    """The model does not do what the job asks; it did when the job was made."""

    code = "unsupported_model"
    param = "model"


class InputTooLong(EngineError):
    """An input does not fit the model's context."""

    code = "context_length_exceeded"

    def __init__(self, number: int, num_tokens: int, limit: int, param: str) -> None:
        super().__init__(
            f"Input {number} has {num_tokens} tokens; this model takes {limit}. Shorten it, or set "
            "'truncate_prompt_tokens' to -1 to have it cut."
        )
        self.param = param


class _Source(NamedTuple):
    """An input before it is tokenized: a text, token ids, or a pair of texts."""

    first: str | list[int]
    second: str | None = None


def check_task(job: Job, info: EngineInfo) -> None:
    """Raise OtherTask for a job that this model is not for."""
    wanted = {"embedding": "embed", "score": "score"}.get(job.kind, "generate")
    if wanted != info.task:
        raise OtherTask(f"The model '{job.model}' {MAKES[info.task]}; ask another one for this.")


class _Maker:
    """Makes the inputs of one job."""

    def __init__(self, job: Job, text: TextModel, info: EngineInfo) -> None:
        asked = job.max_input_tokens
        self._limit = info.context_length
        # None: nothing is cut
        self._cut_to = min(asked if asked > 0 else self._limit, self._limit) if asked else None
        self._cut_document_to = job.max_document_tokens or None
        self._num_queries = job.num_queries
        self._param = job.prompt_param
        self._pairs: PairPrompt | None = None
        if text.chat_template is not None and is_for_pairs(text.chat_template):
            self._pairs = PairPrompt(text.chat_template, text.tokenizer, job.created_s)
        self._text = text
        self._info = info

    def make(self, number: int, source: _Source) -> Input:
        """One input. Raises EngineError."""
        try:
            made = self._made(number, source)
        except InvalidInput as error:
            error.param = error.param or self._param
            raise
        num_tokens = len(made.prompt_ids)
        if self._cut_to is not None and num_tokens > self._cut_to:
            what = f"The query of input {number} alone makes {num_tokens} tokens of it"
            raise InvalidInput(f"{what}; {self._cut_to} are wanted.", self._param)
        if num_tokens > self._limit:
            raise InputTooLong(number, num_tokens, self._limit, self._param)
        if not made.prompt_ids:
            raise InvalidInput(f"Input {number} has no tokens.", self._param)
        return made

    def _made(self, number: int, source: _Source) -> Input:
        first, second = source
        if isinstance(first, list):
            check_ids(first, self._info, self._param)
            return Input(number, first[: self._cut_to])
        if second is None:
            return self._alone(number, first)
        first = self._bounded(number, first, self._cut_to)
        second = self._bounded(number, second, self._cut_document_to or self._cut_to)
        bounds = self._cut_to, self._cut_document_to
        if self._pairs is not None:
            return Input(number, self._pairs.encode(first, second, *bounds))
        return _input(number, self._text.tokenizer.encode_pair(first, second, *bounds))

    def _alone(self, number: int, text: str) -> Input:
        own = self._cut_document_to if number >= self._num_queries else None
        text = self._bounded(number, text, own or self._cut_to)
        return _input(number, self._text.tokenizer.encode_text(text, self._cut_to, own))

    def _bounded(self, number: int, text: str, cut_to: int | None) -> str:
        """The text without what is cut in any case; one that can never fit is refused before it
        is tokenized.
        """
        if cut_to is not None:
            return text[: cut_to * MAX_CHARS_PER_TOKEN]
        if num_tokens := tokens_beyond(text, self._text, self._limit):
            raise InputTooLong(number, num_tokens, self._limit, self._param)
        return text


def _input(number: int, encoded: Encoded) -> Input:
    return Input(number, encoded.ids, encoded.type_ids if any(encoded.type_ids) else ())


def inputs_of(job: Job, text: TextModel, info: EngineInfo) -> list[Input]:
    """The inputs, in order. Raises EngineError for what only the model can judge."""
    maker = _Maker(job, text, info)
    return [maker.make(number, source) for number, source in enumerate(_sources(job))]


def _sources(job: Job) -> Iterator[_Source]:
    prompts, num_queries = job.prompts or [], job.num_queries
    if job.kind == "embedding":
        yield from map(_Source, prompts)
        return
    for i, document in enumerate(prompts[num_queries:]):
        query = prompts[i if num_queries > 1 else 0]
        assert isinstance(document, str)
        yield _Source(query, document)
