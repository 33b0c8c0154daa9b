"""The queue's scripts in a real server, called one by one and told the time. No event loop."""

from typing import Any

import redis

from workers import contract
from workers.contract import Append, Fence, encode
from workers.lease import Claimed, read_claims

LEASE_MS = 3_600_000
RECORD_MS = 86_400_000
START_MS = 1_800_000_000_000
CLASSES = ("interactive", "default", "batch")
_NOW_KEY = "test:now"
_CLOCK = """local function clock_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
_TEST_CLOCK = f"local function clock_ms() return tonumber(redis.call('GET', '{_NOW_KEY}')) end\n"


def with_test_clock(name: str) -> str:
    """A script's source, with a clock that the test sets."""
    source = contract.load_script(name)
    if "clock_ms()" in source:
        assert _CLOCK in source
    return source.replace(_CLOCK, _TEST_CLOCK)


class QueueScripts:
    """One queue and everybody who works on it. Empties the server first."""

    def __init__(self, url: str, model: str = "m") -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushall()
        self.queue = contract.queue_key(model)
        self._scripts: dict[str, Any] = {}
        self.now_ms = 0
        self.advance(START_MS)

    def advance(self, ms: int) -> None:
        """Let time go by for the scripts; expiries of keys do not notice."""
        self.now_ms += ms
        self.client.set(_NOW_KEY, self.now_ms)

    def script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self.client.register_script(with_test_clock(name))
        return self._scripts[name](keys=keys, args=args)

    def key(self, name: str) -> str:
        """One of the queue's own keys."""
        return f"{self.queue}:{name}"

    def sums(self) -> dict[str, float]:
        """The queue's sums."""
        return {k.decode(): float(v) for k, v in self.client.hgetall(self.key("sums")).items()}

    def enqueue(
        self,
        job_id: str,
        tenant: str = "",
        service_class: str = "default",
        cost: int = 100,
        *,
        key: str = "",
        **terms: Any,
    ) -> Any:
        """The enqueue script's reply; `terms` are fields of Admission."""
        values: dict[str, Any] = {
            "id": job_id,
            "tenant": tenant,
            "service_class": service_class,
            "home": "A",
            "cost": cost,
            "prompt_tokens": 0,
            "wake": contract.wake_channel(self.queue),
            "is_followed": False,
            "ttl_ms": RECORD_MS,
            "max_jobs": 1_000_000,
            "max_tokens": 1_000_000_000,
            "digest_ttl_ms": 60_000,
        }
        keys = [
            contract.job_key(job_id),
            contract.arq_job_key(job_id),
            contract.log_key(job_id),
            self.queue,
            contract.idempotency_key(tenant, key),
            contract.limit_key(tenant),
        ]
        admission = contract.Admission(**{**values, **terms})
        return self.script("enqueue", keys, [b"spec", b"arq", encode(admission)])

    def claim(self, worker: str = "w", free: int = 1, spare: int = 0) -> list[Claimed]:
        reply = self.script("claim", [self.queue], [worker, free, spare, LEASE_MS])
        return read_claims(reply)

    def open(self, job_id: str, owner: str) -> Any:
        worker, _, attempt = owner.rpartition(":")
        keys = [contract.lease_key(job_id), contract.job_key(job_id)]
        keys += [contract.log_key(job_id), contract.cancel_key(job_id)]
        fence = encode(Fence(int(attempt), worker))
        return self.script("open", keys, [owner, fence, attempt, 600, "fp"])

    def step(self, job_id: str, index: int, entry: bytes, previous: bytes | None) -> Any:
        before = {} if previous is None else {job_id: previous}
        batch = contract.encode_batch([Append(job_id, index, entry)])
        return self.script("step", [], ["api:A", batch, contract.encode_previous(before)])

    def renew(self, *holders: tuple[str, str]) -> list[int]:
        """States of (job id, owner) pairs."""
        args: list[Any] = [LEASE_MS, RECORD_MS]
        for job_id, owner in holders:
            args += (job_id, owner, owner.rpartition(":")[2])
        states: list[int] = self.script("renew", [self.queue], args)
        return states

    def release(self, job_id: str, owner: str, how: str = "done", used: int = -1) -> int:
        keys = [contract.lease_key(job_id), self.queue, contract.arq_job_key(job_id)]
        keys += [contract.arq_retry_key(job_id), contract.job_key(job_id)]
        keys += [contract.log_key(job_id)]
        wake = contract.wake_channel(self.queue)
        args = [owner, job_id, how, wake, RECORD_MS, used, "done"]
        result: int = self.script("release", keys, args)
        return result

    def finish(self, job: Claimed, worker: str = "w", used: int = -1) -> None:
        """End a job that `worker` claimed."""
        assert self.release(job.id, f"{worker}:{job.attempt}", "done", used) == 1

    def cancel(self, job_id: str, entry: bytes, whom: str = "") -> int:
        keys = [contract.cancel_key(job_id), contract.job_key(job_id)]
        keys += [contract.lease_key(job_id), contract.log_key(job_id)]
        keys += [self.queue, contract.arq_job_key(job_id)]
        version = contract.SCHEMA_VERSION
        args = [job_id, contract.control_channel(self.queue), 3600, entry, "api:A", version]
        result: int = self.script("cancel", keys, [*args, "cancelled", whom])
        return result

    def retry(self, job_id: str, terminal: bytes, instead: bytes) -> int:
        keys = [contract.job_key(job_id), contract.log_key(job_id), contract.arq_job_key(job_id)]
        keys += [contract.arq_retry_key(job_id), self.queue]
        wake = contract.wake_channel(self.queue)
        args = [job_id, terminal, instead, b"arq", RECORD_MS, wake]
        result: int = self.script("retry", keys, args)
        return result

    def status(self, job_id: str) -> Any:
        keys = [contract.job_key(job_id), contract.lease_key(job_id), contract.log_key(job_id)]
        return self.script("status", keys, [job_id])

    def expire_lease(self, job_id: str) -> None:
        """Let the job's lease run out now."""
        self.client.delete(contract.lease_key(job_id))
        self.client.zadd(contract.leases_key(self.queue), {job_id: 1})
