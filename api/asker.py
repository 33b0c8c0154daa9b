"""Asks workers what only a model's tokenizer and template know. Knows no HTTP."""

import asyncio
import logging
import uuid

import msgspec
from redis.asyncio import Redis

from api.call import Call
from api.errors import ApiError
from workers import contract
from workers.questions import (
    ANSWER_S,
    MAX_BYTES,
    MAX_QUESTIONS,
    Question,
    Reply,
    Subject,
    decode_reply,
    question_key,
    questions_key,
)

logger = logging.getLogger(__name__)


class Asker:
    """One API process's open questions; `api_id` is whose channel `hear` gets the replies from."""

    def __init__(self, redis: Redis, call: Call, api_id: str, answer_s: float = ANSWER_S) -> None:
        self._redis = redis
        self._call = call
        self._api_id = api_id
        self._answer_s = answer_s
        self._script = redis.register_script(contract.load_script("question"))
        self._open: dict[str, asyncio.Future[Reply]] = {}

    async def ask(self, queue: str, subject: Subject, *, wants_pieces: bool = False) -> Reply:
        """The reply of one of the queue's workers.

        Raises ApiError: the reply's own, `request_too_large`, `queue_full`, `queue_unavailable`,
        or `timeout`.
        """
        question = Question(
            id=uuid.uuid4().hex, home=self._api_id, subject=subject, wants_pieces=wants_pieces
        )
        self._open[question.id] = asyncio.get_running_loop().create_future()
        try:
            await self._put(queue, question)
            reply = await self._wait(question.id)
        finally:
            del self._open[question.id]
        if reply.failed is not None:
            raise ApiError.of(reply.failed)
        return reply

    def hear(self, message: bytes) -> None:
        """Take a reply in; one that nobody waits for is nothing."""
        try:
            reply = decode_reply(message)
        except msgspec.MsgspecError as error:
            logger.error("a reply cannot be read: %s", error)
            return
        waiting = self._open.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    async def _put(self, queue: str, question: Question) -> None:
        data = contract.encode(question)
        if len(data) > MAX_BYTES:
            what = f"This request takes at most {MAX_BYTES} bytes of text; it has {len(data)}."
            raise ApiError("request_too_large", what)
        keys = [questions_key(queue), question_key(question.id)]
        args: list[str | int | bytes] = [question.id, data, MAX_QUESTIONS]
        args.append(round(self._answer_s * 1000))
        if not await self._call(lambda: self._script(keys=keys, args=args)):
            raise ApiError("queue_full", "Too many such requests wait; try again soon.")

    async def _wait(self, question_id: str) -> Reply:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._open[question_id]
        except TimeoutError:
            what = f"No worker answered within {self._answer_s:g} s; try again."
            raise ApiError("timeout", what) from None
