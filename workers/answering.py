"""Answers questions about texts, one at a time and beside the engine. Knows no job's life."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import cast

import msgspec
from redis.asyncio import Redis

from engine.errors import EngineError, InvalidInput
from engine.messages import EngineInfo
from engine.text.text_model import TextModel
from workers.contract import Failed, api_channel
from workers.logs import without_message
from workers.prepare import check_ids, render_job
from workers.questions import (
    Detokenize,
    Question,
    Render,
    Reply,
    Tokenize,
    decode_question,
    encode_reply,
    question_key,
    questions_key,
)
from workers.redis_link import COMMAND_TIMEOUT_S, MAX_BACKOFF_S, TRANSIENT
from workers.run import INTERNAL_ERROR

logger = logging.getLogger(__name__)

POP_S = 5  # how long one look at the list lasts


class Answering:
    """Takes a queue's questions until cancelled, on a connection of its own: a look blocks it."""

    def __init__(self, url: str, queue: str, text: TextModel, info: EngineInfo) -> None:
        self._url = url
        self._queue = queue
        self._text = text
        self._info = info

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            try:
                async with Redis.from_url(self._url) as client:
                    await self._serve(client)
            except TRANSIENT as error:
                logger.debug("cannot answer questions: %r", error)
            await asyncio.sleep(MAX_BACKOFF_S)

    async def _serve(self, client: Redis) -> None:
        while True:
            async with asyncio.timeout(POP_S + COMMAND_TIMEOUT_S):  # a peer may vanish silently
                popped = await _pop(client, questions_key(self._queue))
            if popped is None:
                continue
            question = await client.getdel(question_key(popped.decode()))
            if question is not None:  # else nobody waits any more
                await self._answer(client, question)

    async def _answer(self, client: Redis, data: bytes) -> None:
        try:
            question = decode_question(data)
        except msgspec.MsgspecError as error:
            logger.error("a question cannot be read: %s", error)
            return
        reply = await asyncio.to_thread(answer, question, self._text, self._info)
        await client.publish(api_channel(question.home), encode_reply(reply))


async def _pop(client: Redis, key: str) -> bytes | None:
    """The next id, when there is one within POP_S."""
    # redis-py's types are those of its clients with and without asyncio.
    popped = await cast("Awaitable[list[bytes] | None]", client.blpop([key], timeout=POP_S))
    return None if popped is None else popped[1]


def answer(question: Question, text: TextModel, info: EngineInfo) -> Reply:
    """The reply to a question; a fault of the question's or of ours is told in it."""
    try:
        return _answer(question, text, info)
    except EngineError as error:
        failed = Failed(0, error.code, str(error), error.param)
    except Exception as error:
        logger.error("question %s: %s", question.id, without_message(error))
        failed = Failed(0, "internal_error", INTERNAL_ERROR)
    return Reply(id=question.id, failed=failed)


def _answer(question: Question, text: TextModel, info: EngineInfo) -> Reply:
    subject, tokenizer = question.subject, text.tokenizer
    if isinstance(subject, Detokenize):
        check_ids(subject.token_ids, info, "tokens")
        shown = tokenizer.decode(subject.token_ids, skip_special_tokens=False)
        return Reply(id=question.id, text=shown)
    shown, ids = _tokens(subject, text)
    pieces = [tokenizer.token_bytes(i) for i in ids] if question.wants_pieces else []
    return Reply(id=question.id, text=shown, token_ids=ids, pieces=pieces)


def _tokens(subject: Tokenize | Render, text: TextModel) -> tuple[str, list[int]]:
    if isinstance(subject, Tokenize):
        ids = text.tokenizer.encode(subject.text, subject.adds_special_tokens)
        return subject.text, ids
    if subject.job.messages is None:
        raise InvalidInput("Only a chat has a template.", "messages")
    prompt = render_job(subject.job, text)
    return prompt.text, prompt.encode(text.tokenizer) if subject.is_tokenized else []
