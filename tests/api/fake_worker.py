"""A worker without an engine: it speaks the wire, and what a job does is what its prompt says."""

import asyncio
import contextlib
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence

import redis.asyncio
import redis.exceptions

from workers import contract, questions
from workers.contract import CallDelta, Delta, Done, Failed, Started, Tokens, Usage, Vectors

MODEL = "tiny/demo"
CONTEXT_LENGTH = 2048
VOCAB_SIZE = 100
TURN_S = 5.0  # a command whose reply never comes must not silence the worker for a whole session
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    OSError,
)


VECTOR_SIZE = 4
TASKS: dict[str, contract.Task] = {"m/embed": "embed", "m/score": "score", "m/text": "generate"}


def fake_vector(source: object, size: int = VECTOR_SIZE) -> bytes:
    """What the fake model makes of a text, of token ids or of a (query, document) pair."""
    seeds = (zlib.crc32(f"{source}:{i}".encode()) for i in range(size))
    return struct.pack(f"<{size}f", *(seed / 2**31 - 1 for seed in seeds))


class FakeJob:
    """A job as the fake worker sees it: all its log entries, and how many of them are written."""

    def __init__(self, job: contract.Job, entries: Sequence[bytes] = ()) -> None:
        """`entries` are what an earlier attempt left."""
        self.job = job
        self.entries = list(entries)
        self.num_written = len(entries)
        self.offset = sum(contract.num_events(contract.decode_event(e)) for e in entries)
        self.is_resumed = bool(entries)
        self.is_dead = False
        self.plan = self._plan()
        self.is_over = False

    def _plan(self) -> Iterator[contract.Event | None]:
        """The job's events, one a step; what happens is what the prompt says."""
        job = self.job
        prompts = job.prompts or [(job.messages or [])[-1]["content"]]
        prompt = prompts[0] if isinstance(prompts[0], str) else "echo " + repr(prompts[0])
        verb, _, rest = prompt.partition(" ")
        while verb == "silent":
            yield None
        if verb == "fail":
            yield Failed(0, rest, f"it failed with {rest}", "messages")
            return
        if not self.is_resumed:
            yield Started(0, 7)
        if job.kind in ("embedding", "score"):
            yield from self._vectors()
            return
        yield from getattr(self, f"_{verb}", self._echo)(rest)

    def _vectors(self) -> Iterator[contract.Event | None]:
        """Two inputs a step; `hang` as an input makes the rest wait."""
        job, prompts = self.job, self.job.prompts or []
        sources: list[object] = list(prompts)
        if job.kind == "score":
            queries, documents = prompts[: job.num_queries], prompts[job.num_queries :]
            pairs = enumerate(documents)
            sources = [(queries[i if len(queries) > 1 else 0], d) for i, d in pairs]
        size = VECTOR_SIZE if job.kind == "embedding" else 1
        for first in range(0, len(sources), 2):
            while "hang" in sources[first : first + 2]:
                yield None
            made = [fake_vector(source, size) for source in sources[first : first + 2]]
            yield Vectors(self.offset, first, len(made), b"".join(made))
        yield Done(self.offset, Usage(7, 0))

    def _echo(self, text: str) -> Iterator[contract.Event | None]:
        words = [word + " " for word in text.split(" ")]
        for i, word in enumerate(words):
            finish = "stop" if i == len(words) - 1 else None
            choices = range(self.job.num_choices)
            yield Tokens(self.offset, tuple(Delta(c, (i,), word, finish) for c in choices))
        yield Done(self.offset, Usage(7, len(words) * self.job.num_choices, 3))

    def _fail_late(self, code: str) -> Iterator[contract.Event | None]:
        yield Tokens(self.offset, (Delta(0, (1,), "so far "),))
        yield Failed(self.offset, code, f"it failed with {code}")

    def _crash(self, text: str) -> Iterator[contract.Event | None]:
        """Becomes a dead letter after a token; ends well when an operator starts it again."""
        if self.is_resumed:
            yield Tokens(self.offset, (Delta(0, (2,), "and on", "stop"),))
            yield Done(self.offset, Usage(7, 2, 0))
            return
        yield Tokens(self.offset, (Delta(0, (1,), "so far "),))
        self.is_dead = True
        yield Failed(self.offset, "engine_crashed", f"job {self.job.id} crashed its engine")

    def _act(self, text: str) -> Iterator[contract.Event | None]:
        """Thinks, speaks, and calls the first tool."""
        call = CallDelta(0, "call_1", self.job.tools[0]["function"]["name"], '{"x":')
        said = (
            Delta(0, (1,), "", reasoning="Hm."),
            Delta(0, (2,), "Wait."),
            Delta(0, (3,), "", calls=(call,)),
            Delta(0, (4,), "", "tool_calls", calls=(CallDelta(0, None, None, "1}"),)),
        )
        for delta in said:
            yield Tokens(self.offset, (delta,))
        yield Done(self.offset, Usage(7, len(said), 3))

    def _stop(self, text: str) -> Iterator[contract.Event | None]:
        """Meets the first stop string after a word."""
        stop = self.job.sampling.stop[0]
        yield Tokens(self.offset, (Delta(0, (1,), "word", "stop", matched_stop=stop),))
        yield Done(self.offset, Usage(7, 1, 0))

    def _pause(self, text: str) -> Iterator[contract.Event | None]:
        """`pause S`: a token, silence for S seconds, another token."""
        yield Tokens(self.offset, (Delta(0, (1,), "before "),))
        ends_s = time.monotonic() + float(text)
        while time.monotonic() < ends_s:
            yield None
        yield Tokens(self.offset, (Delta(0, (2,), "after", "stop"),))
        yield Done(self.offset, Usage(7, 2, 0))

    def _hang(self, text: str) -> Iterator[contract.Event | None]:
        yield Tokens(self.offset, (Delta(0, (1,), "then nothing"),))
        while True:
            yield None

    def _count(self, text: str) -> Iterator[contract.Event | None]:
        """`count N`: N tokens, one a step; `burst N`: fifty a step."""
        total = int(text)
        for i in range(total):
            finish = "length" if i == total - 1 else None
            yield Tokens(self.offset, (Delta(0, (i,), f"{i} ", finish),))
        yield Done(self.offset, Usage(7, total, 0))

    _burst = _count

    def _big(self, text: str) -> Iterator[contract.Event | None]:
        """`big N`: N entries of 1 kB, fifty a step."""
        for i in range(int(text)):
            yield Tokens(self.offset, (Delta(0, (i,), f"{i:06d}" + "x" * 1000),))
        yield Done(self.offset, Usage(7, int(text), 0))

    @property
    def events_per_step(self) -> int:
        prompt = (self.job.messages or [{"content": ""}])[-1]["content"]
        return 50 if prompt.startswith(("big ", "burst ")) else 1

    def step(self) -> None:
        """Make the next entry or entries."""
        for _ in range(self.events_per_step):
            event = next(self.plan, None)
            if event is None:
                return
            self.add(event)

    def add(self, event: contract.Event) -> None:
        self.entries.append(contract.encode(event))
        self.offset += contract.num_events(event)
        self.is_over = contract.is_terminal(event)


def _reply(question: questions.Question) -> questions.Reply:
    """A token is a character, BOS is 1; a chat is its roles and texts between bars."""
    subject = question.subject
    if isinstance(subject, questions.Detokenize):
        return questions.Reply(id=question.id, text="".join(map(chr, subject.token_ids)))
    if isinstance(subject, questions.Tokenize):
        text, ids = subject.text, [1] if subject.adds_special_tokens else []
    else:
        messages = subject.job.messages or []
        text, ids = "|".join(f"{m['role']}:{m['content']}" for m in messages), []
    if text.endswith("refuse me"):
        failed = Failed(0, "invalid_value", "It is refused.", "messages")
        return questions.Reply(id=question.id, failed=failed)
    ids = [*ids, *map(ord, text)]
    pieces = [bytes([i % 256]) for i in ids] if question.wants_pieces else []
    return questions.Reply(id=question.id, text=text, token_ids=ids, pieces=pieces)


class FakeWorker:
    """Runs in a thread of its own until `stop`."""

    def __init__(
        self,
        url: str,
        step_s: float = 0.004,
        *,
        model: str = MODEL,
        task: contract.Task = "generate",
    ) -> None:
        self.url = url
        self.model = model
        self.task = task
        self.name = "fake" if model == MODEL else f"fake-{model}"
        self.step_s = step_s
        self.jobs: dict[str, FakeJob] = {}
        self.specs: dict[str, contract.Job] = {}
        self.cancelled: set[str] = set()
        self._owners: dict[str, str] = {}
        self._is_paused = False
        self._has_paused = threading.Event()
        self.max_running = 256
        self._is_stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def is_paused(self) -> bool:
        """While it is, nothing is claimed, made or answered."""
        return self._is_paused

    @is_paused.setter
    def is_paused(self, value: bool) -> None:
        self._has_paused.clear()
        self._is_paused = value
        # What it is about to claim would be a job of whoever pauses it.
        assert not value or self._has_paused.wait(10), "the fake worker does not pause"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join(10)

    async def _run(self) -> None:
        self._redis = redis.asyncio.Redis.from_url(self.url)
        self._scripts = {
            name: self._redis.register_script(contract.load_script(name))
            for name in ("heartbeat", "claim", "step", "release")
        }
        self._queue = contract.queue_key(self.model)
        control = asyncio.create_task(self._listen())
        beats_s = 0.0
        while not self._is_stopped:
            with contextlib.suppress(*AWAY):
                async with asyncio.timeout(TURN_S):
                    if time.monotonic() - beats_s > 0.2:
                        await self._beat()
                        beats_s = time.monotonic()
                    if self._is_paused:
                        self._has_paused.set()
                    else:
                        await self._claim()
                        await self._step()
                        await self._answer()
            await asyncio.sleep(self.step_s)
        control.cancel()
        await asyncio.gather(control, return_exceptions=True)
        await self._redis.aclose()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*AWAY):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(contract.control_channel(self._queue))
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._cancel(message["data"].decode())
            await asyncio.sleep(0.05)

    def _cancel(self, job_id: str) -> None:
        self.cancelled.add(job_id)
        if (job := self.jobs.get(job_id)) is not None and not job.is_over:
            job.add(Failed(job.offset, "cancelled", "cancelled"))

    async def _beat(self) -> None:
        card = contract.ModelCard(
            name=self.model,
            queue=self._queue,
            context_length=CONTEXT_LENGTH,
            vocab_size=VOCAB_SIZE,
            created_s=1_700_000_000,
            fingerprint="fp_test",
            task=self.task,
            vector_size={"embed": VECTOR_SIZE, "score": 1}.get(self.task, 0),
        )
        beat = contract.Heartbeat(
            worker=self.name,
            model=self.model,
            running=len(self.jobs),
            waiting=0,
            kv_blocks_used=len(self.jobs),
            kv_blocks_total=64,
        )
        keys = [
            contract.worker_key(self.name),
            contract.WORKERS_KEY,
            contract.MODELS_KEY,
            contract.MODELS_SEEN_KEY,
            contract.isq_key(self.model),
        ]
        args = [self.name, contract.encode(beat), 3000, self.model, contract.encode(card), 1000]
        await self._scripts["heartbeat"](keys=keys, args=args)

    async def _claim(self) -> None:
        free = self.max_running - len(self.jobs)
        args = [self.name, free, 0, 600_000]
        taken = await self._scripts["claim"](keys=[self._queue], args=args)
        for job_id, attempt in zip((n.decode() for n in taken[::5]), taken[2::5], strict=True):
            self._owners[job_id] = f"{self.name}:{int(attempt)}"
            spec = contract.decode_job(await self._redis.hget(contract.job_key(job_id), "spec"))
            entries = await self._redis.lrange(contract.log_key(job_id), 0, -1)
            self.specs[job_id] = spec
            self.jobs[job_id] = FakeJob(spec, entries)
            if job_id in self.cancelled:  # heard of while it was being claimed
                self._cancel(job_id)

    async def _answer(self) -> None:
        popped = await self._redis.lpop(questions.questions_key(self._queue))
        if popped is None:
            return
        data = await self._redis.getdel(questions.question_key(popped.decode()))
        if data is not None:
            question = questions.decode_question(data)
            reply = questions.encode_reply(_reply(question))
            await self._redis.publish(contract.api_channel(question.home), reply)

    async def _step(self) -> None:
        homes: dict[str, list[contract.Append]] = {}
        for job_id, job in self.jobs.items():
            if job.num_written == len(job.entries) and not job.is_over:
                job.step()
            appends = homes.setdefault(job.job.home, [])
            for index in range(job.num_written, len(job.entries)):
                appends.append(contract.Append(job_id, index, job.entries[index], 600))
        for home, appends in homes.items():
            if appends:
                await self._write(contract.api_channel(home), appends)

    async def _write(self, channel: str, appends: list[contract.Append]) -> None:
        args = [channel, contract.encode_batch(appends)]
        _, bad = await self._scripts["step"](keys=[], args=args)
        for append in appends:
            self.jobs[append.job].num_written = append.index + 1
        for name, kind, length in zip(bad[::3], bad[1::3], bad[2::3], strict=True):
            if kind == b"gap":
                self.jobs[name.decode()].num_written = int(length)
        for job_id in [j for j, job in self.jobs.items() if job.is_over]:
            if self.jobs[job_id].num_written == len(self.jobs[job_id].entries):
                await self._release(job_id)

    async def _release(self, job_id: str) -> None:
        keys = [
            contract.lease_key(job_id),
            self._queue,
            contract.arq_job_key(job_id),
            contract.arq_retry_key(job_id),
            contract.job_key(job_id),
            contract.log_key(job_id),
        ]
        wake = contract.wake_channel(self._queue)
        how = "dead" if self.jobs[job_id].is_dead else "done"
        args = [self._owners[job_id], job_id, how, wake, 600_000, 10, "done"]
        await self._scripts["release"](keys=keys, args=args)
        del self.jobs[job_id], self._owners[job_id]  # what was interrupted is released again
