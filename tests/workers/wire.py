"""The API's half of the wire, without an API; and what the scripted engine will say."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import redis.asyncio

from engine.config import SamplingParams
from engine.text.detokenizer import Detokenizer
from engine.text.text_model import TextModel
from engine.weights.files import ModelFiles
from tests.scripted_engine import key_of, plain_ids, token_at
from workers import contract
from workers.contract import Event, Job, Sampling, Tokens

QUEUE = contract.queue_key("m")
PROMPT = [5, 6, 7]


def make_job(job_id: str = "j", **changes: Any) -> Job:
    """A completion job of one prompt; sampling fields go to its Sampling."""
    fields = set(Sampling.__struct_fields__)
    sampling = {name: changes.pop(name) for name in list(changes) if name in fields}
    values: dict[str, Any] = {
        "id": job_id,
        "kind": "completion",
        "model": "m",
        "home": "A",
        "created_s": int(time.time()),
        "prompts": [PROMPT],
        "sampling": Sampling(**{"seed": 1, "max_tokens": 8, **sampling}),
    }
    return Job(**{**values, **changes})


class Wire:
    """A client that does to Redis what an API process does."""

    def __init__(self, url: str, model: str = "m") -> None:
        self.patience_s = 20.0
        self.client = redis.asyncio.Redis.from_url(url)
        self.queue = contract.queue_key(model)

    async def script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return await self.client.register_script(contract.load_script(name))(keys=keys, args=args)

    async def enqueue(
        self,
        job: Job,
        *,
        limit: int = 1000,
        arq_record: bytes | None = None,
        key: str = "",
        **terms: Any,
    ) -> Any:
        """The enqueue script's reply; `terms` are fields of Admission."""
        record = arq_record or contract.encode_arq_job(job.id, int(time.time() * 1000))
        keys = [
            contract.job_key(job.id),
            contract.arq_job_key(job.id),
            contract.log_key(job.id),
            self.queue,
            contract.idempotency_key(job.tenant, key),
            contract.limit_key(job.tenant),
        ]
        values: dict[str, Any] = {
            "id": job.id,
            "tenant": job.tenant,
            "service_class": job.service_class,
            "home": job.home,
            "cost": job.cost,
            "prompt_tokens": job.prompt_tokens,
            "wake": contract.wake_channel(self.queue),
            "is_followed": bool(job.webhook or job.batch),
            "ttl_ms": 86_400_000,
            "max_jobs": limit,
            "max_tokens": 1_000_000_000,
            "digest_ttl_ms": 60_000,
        }
        admission = contract.Admission(**{**values, **terms})
        args = [contract.encode(job), record, contract.encode(admission)]
        return await self.script("enqueue", keys, args)

    async def expire_lease(self, job_id: str = "j") -> None:
        """Let the job's lease run out now."""
        await self.client.delete(contract.lease_key(job_id))
        await self.client.zadd(contract.leases_key(self.queue), {job_id: 1})

    async def cancel(self, job: Job) -> Any:
        failed = contract.encode(contract.Failed(0, "cancelled", ""))
        keys = [
            contract.cancel_key(job.id),
            contract.job_key(job.id),
            contract.lease_key(job.id),
            contract.log_key(job.id),
            self.queue,
            contract.arq_job_key(job.id),
        ]
        channel = contract.control_channel(self.queue)
        home = contract.api_channel(job.home)
        args = [job.id, channel, 3600, failed, home, contract.SCHEMA_VERSION, "cancelled", ""]
        return await self.script("cancel", keys, args)

    async def events(self, job_id: str = "j") -> list[Event]:
        entries = await self.client.lrange(contract.log_key(job_id), 0, -1)
        return [contract.decode_event(entry) for entry in entries]

    async def until(
        self, condition: Callable[[list[Event]], bool], job_id: str = "j"
    ) -> list[Event]:
        """The log's events as soon as `condition` holds."""
        deadline = time.monotonic() + self.patience_s
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                events = await self.events(job_id)
                if condition(events):
                    return events
            assert time.monotonic() < deadline, "the log did not get there"
            await asyncio.sleep(0.005)

    async def finished(self, job_id: str = "j") -> list[Event]:
        """The log's events once it has its terminal entry."""
        return await self.until(lambda e: bool(e) and contract.is_terminal(e[-1]), job_id)

    async def until_true(self, condition: Callable[[], Any], what: str = "it") -> None:
        """Wait for a condition; awaitable results are awaited."""
        deadline = time.monotonic() + self.patience_s
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            assert time.monotonic() < deadline, f"{what} did not happen"
            await asyncio.sleep(0.005)

    async def until_gone(self, pattern: str) -> None:
        """Wait until Redis has no such key."""
        while keys := await self.client.keys(pattern):
            await self.until_true(lambda: self.missing(keys), f"the end of {keys}")

    async def missing(self, keys: list[bytes]) -> bool:
        num_left: int = await self.client.exists(*keys)
        return num_left == 0


def num_tokens(events: list[Event]) -> int:
    """Tokens in a log."""
    return contract.completion_tokens(events)


def has_tokens(count: int) -> Callable[[list[Event]], bool]:
    """True of a log with so many tokens, for `until`."""
    return lambda events: num_tokens(events) >= count


def ids_of(events: list[Event], choice: int = 0) -> list[int]:
    """One choice's token ids, in the log's order."""
    deltas = [d for e in events if isinstance(e, Tokens) for d in e.deltas if d.choice == choice]
    return [id_ for delta in deltas for id_ in delta.token_ids]


def text_of(events: list[Event], choice: int = 0) -> str:
    """One choice's text."""
    deltas = [d for e in events if isinstance(e, Tokens) for d in e.deltas if d.choice == choice]
    return "".join(delta.text for delta in deltas)


def check_log(events: list[Event]) -> None:
    """Event numbers have neither gap nor repeat; the only terminal entry is the last one."""
    expected = 0
    for event in events:
        if not isinstance(event, contract.Fence):
            assert event.offset == expected
        expected += contract.num_events(event)
    assert [contract.is_terminal(event) for event in events] == [*[False] * (len(events) - 1), True]


def scripted_ids(
    files: ModelFiles, job: Job, choice: int = 0, prompt: list[int] = PROMPT
) -> list[int]:
    """What the scripted engine makes of the job."""
    params = SamplingParams(max_tokens=job.sampling.max_tokens or 0, seed=job.sampling.seed)
    vocabulary = plain_ids(files.directory)
    key = key_of(prompt, params.seed, choice)
    return [token_at(vocabulary, key, position) for position in range(params.max_tokens)]


def text_of_ids(text: TextModel, ids: list[int]) -> str:
    """The text of a completion with these ids."""
    detokenizer = Detokenizer(text.tokenizer, is_continuation=True)
    return detokenizer.push(ids) + detokenizer.flush()
