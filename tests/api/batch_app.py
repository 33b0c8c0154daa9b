"""The app with files and batches in this process, a real Redis, and the fake worker."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import openai

from api.app import create_app
from api.batch.assembly import Batching, add_routes, batching
from api.batch.state import BatchState
from api.chores import Chores
from api.config import ApiConfig
from api.generation import Generation
from api.hooks.endings import Endings
from workers import contract

CHAT = "/v1/chat/completions"


class BatchApp:
    """One API process's part. Without `work` nothing happens but what a test calls."""

    def __init__(self, redis_url: str, **settings: Any) -> None:
        values: dict[str, Any] = {"redis_timeout_s": 5.0, **settings}
        self.config = ApiConfig(redis_url=redis_url, **values)
        self.app = create_app(self.config)
        self.broker = self.app._broker
        self.redis = self.broker.redis
        self.before_call: Callable[[], None] = lambda: None
        self.after_call: Callable[[], None] = lambda: None
        self._call = self.broker.call
        self.broker.call = self._watched_call  # type: ignore[method-assign]
        # The process's own chores rest: a test says when and by whom they are done.
        self.broker.chores.run = asyncio.Event().wait  # type: ignore[assignment,method-assign]
        self.ended: list[BatchState] = []
        self.now_s: Callable[[], float] = time.time
        generation = Generation(self.broker, self.config, None)
        self.parts: Batching = batching(generation, self._on_end, clock=lambda: self.now_s())
        add_routes(self.app._falcon, self.parts, generation)
        self._tasks: list[asyncio.Task[None]] = []
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self._serve), timeout=60)
        self.client = openai.AsyncOpenAI(
            base_url="http://test/v1", api_key="none", max_retries=0, http_client=http
        )

    async def _watched_call(self, command: Any) -> Any:
        self.before_call()
        reply = await self._call(command)
        self.after_call()
        return reply

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    async def __aenter__(self) -> "BatchApp":
        await self.broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        await self.broker.close()

    def work(self) -> None:
        """Do chores from now on, as every API process does."""
        chores = Chores(self.redis, self.broker.call)
        endings = Endings(self.redis, self.broker.call, self._announce)
        endings.on_line = self.parts.results.on_line
        chores.register("ended", endings.handle)
        chores.register("batch", self.parts.run.handle)
        self._tasks.append(asyncio.create_task(chores.run()))
        self._tasks.append(asyncio.create_task(self._listen(chores)))

    async def _listen(self, chores: Chores) -> None:
        async with self.redis.pubsub() as channel:
            await channel.subscribe(contract.CHORES_CHANNEL)
            async for _ in channel.listen():
                chores.wake()

    async def wake(self, batch_id: str) -> None:
        """Have somebody look at a batch now."""
        await Chores(self.redis, self.broker.call).put(f"batch:{batch_id}")

    async def handle(self, batch_id: str) -> float | None:
        return await self.parts.run.handle(batch_id)

    async def upload(self, data: bytes | str, name: str = "in.jsonl") -> str:
        raw = data.encode() if isinstance(data, str) else data
        file = await self.client.files.create(file=(name, raw), purpose="batch")
        return file.id

    async def begin(self, data: bytes | str, **options: Any) -> str:
        file_id = await self.upload(data)
        values: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **options}
        return (await self.client.batches.create(input_file_id=file_id, **values)).id

    async def ended_batch(self, batch_id: str, timeout_s: float = 60.0) -> Any:
        await self.until(lambda: self._is_ended(batch_id), f"the end of {batch_id}", timeout_s)
        return await self.client.batches.retrieve(batch_id)

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 30.0
    ) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not await condition():
            assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
            await asyncio.sleep(0.02)

    async def lines(self, file_id: str | None) -> dict[str, Any]:
        """A file's lines by custom id, each there once."""
        if file_id is None:
            return {}
        text = (await self.client.files.content(file_id)).text
        lines = [json.loads(line) for line in text.splitlines()]
        by_id = {line["custom_id"]: line for line in lines}
        assert len(by_id) == len(lines)
        return by_id

    async def _is_ended(self, batch_id: str) -> bool:
        status = (await self.client.batches.retrieve(batch_id)).status
        return status in ("failed", "completed", "expired", "cancelled")

    async def _on_end(self, state: BatchState) -> None:
        self.ended.append(state)

    async def _announce(self, notice: object) -> None:
        raise AssertionError("a line has no webhook")


@contextlib.asynccontextmanager
async def process(redis_url: str, **settings: Any):
    async with BatchApp(redis_url, **settings) as app:
        yield app


def line(custom_id: str, prompt: str = "echo a", **changes: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    body |= changes.pop("body", {})
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **changes}
    return json.dumps(fields)


def lines(count: int, prompt: str = "echo {}") -> str:
    """A file of `count` lines r0, r1 and so on; {} in the prompt is the number."""
    return "\n".join(line(f"r{i}", prompt.format(i)) for i in range(count))


async def outputs(app: BatchApp, batch_id: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The ended batch, its output and its errors."""
    batch = await app.ended_batch(batch_id)
    return batch, await app.lines(batch.output_file_id), await app.lines(batch.error_file_id)


async def running(app: BatchApp, batch_id: str) -> None:
    async def is_running() -> bool:
        status: str = (await app.client.batches.retrieve(batch_id)).status
        return status == "in_progress"

    await app.until(is_running, "the batch runs")


def said(output: Any) -> str:
    """The text in a line of an output file."""
    text: str = output["response"]["body"]["choices"][0]["message"]["content"]
    return text
