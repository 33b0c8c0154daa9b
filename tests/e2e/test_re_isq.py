"""re_isq while streams run: none fails, and each is what its weights make of what was said."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import pytest
import redis

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_engine
from engine.messages import SequenceRequest
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from tests.e2e.conftest import Stack, is_ready
from tests.e2e.streams import Crowd, Stream
from workers import contract

# Two tokens whose logits are the same up to rounding may change places with the batch's shape.
MAX_TIES = 2


@pytest.fixture
def fleet(_shared_redis, wait):
    """Two workers with weights of Q2K and an API process, on a Redis of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="tr-") as data,
        tempfile.TemporaryDirectory(prefix="tr-e2e-") as directory,
    ):
        server = type(_shared_redis)(Path(data))
        server.start()
        stack = Stack(server.url, Path(directory))
        stack.environ |= {"TRAMONTANE_ISQ": "Q2K", "TRAMONTANE_CPU_ACTIVATIONS": "float"}
        for _ in range(2):
            stack.start_worker()
        url, _ = stack.start_api()
        try:
            wait(lambda: is_ready(url), "the API and a worker are ready", 60)
            with redis.Redis.from_url(server.url) as client:
                wait(lambda: client.zcard(contract.WORKERS_KEY) == 2, "both workers are ready", 60)
                yield stack, url, client
        finally:
            stack.stop()
            server.stop()


class Reference:
    """What weights of one type say, greedily."""

    def __init__(self, isq: str) -> None:
        files = resolve(ModelRef(model="builtin"))
        self.text = load_text_model(files)
        config = EngineConfig(isq=isq, max_seqs=64, num_threads=1, cpu_activations="float")
        self._engine = load_engine(files, config)

    def continuations(
        self, prompts: list[list[int]], outputs: list[list[int]], max_tokens: int
    ) -> list[list[int]]:
        """All answers, of `max_tokens` with what they have already."""
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        answers = [list(ids) for ids in outputs]
        for n, (prompt, ids) in enumerate(zip(prompts, outputs, strict=True)):
            if len(ids) < max_tokens:
                self._engine.add(
                    SequenceRequest(id=str(n), prompt_ids=prompt, params=params, output_ids=ids)
                )
        while self._engine.has_work():
            for output in self._engine.step():
                answers[int(output.id)] += output.token_ids
        return answers


def said(client: redis.Redis, stream: Stream) -> list[int]:
    """The token ids of a stream, and that it is what its log says, event by event."""
    entries = cast(list[bytes], client.lrange(contract.log_key(stream.job_id), 0, -1))
    events = [contract.decode_event(entry) for entry in entries]
    deltas = [d for e in events if isinstance(e, contract.Tokens) for d in e.deltas]
    assert stream.text == "".join(delta.text for delta in deltas)
    numbers = [piece.number for piece in stream.pieces if piece.number >= 0]
    assert numbers == sorted(set(numbers))
    return [id_ for delta in deltas for id_ in delta.token_ids]


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two answers begin with alike."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))


def check_texts(answers: list[list[int]], prompts: list[list[int]], max_tokens: int) -> int:
    """Each answer is the old weights' up to some token, and from there on the new ones'.

    Returns how many show the change. Where they begin to differ from the old weights', the new ones
    have taken over, there or before: greedy answers go on in the same way from any token of theirs.
    """
    assert [len(ids) for ids in answers] == [max_tokens] * len(answers)
    old = Reference("Q2K").continuations(prompts, [[] for _ in prompts], max_tokens)
    heads = [common(*pair) for pair in zip(answers, old, strict=True)]
    new, num_ties = Reference("Q8_0"), 0
    for _ in range(MAX_TIES + 1):
        begun = [ids[:n] for ids, n in zip(answers, heads, strict=True)]
        expected = new.continuations(prompts, begun, max_tokens)
        pairs = list(zip(answers, expected, strict=True))
        if all(one == other for one, other in pairs):
            return sum(n < max_tokens for n in map(common, answers, old))
        num_ties += sum(one != other for one, other in pairs)
        heads = [min(common(*pair) + 1, max_tokens) for pair in pairs]
        assert num_ties <= MAX_TIES, f"{num_ties} answers are of neither weights"
    raise AssertionError("answers are of neither weights")


@pytest.mark.parametrize(
    ("num_streams", "max_tokens"),
    [(12, 200), pytest.param(50, 250, marks=pytest.mark.nightly)],
    ids=["12 streams", "50 streams"],
)
async def test_no_stream_fails_and_each_goes_on_with_the_new_weights(
    fleet, num_streams, max_tokens
):
    stack, url, client = fleet
    async with Crowd(url, num_streams, max_tokens) as crowd:
        await crowd.until_all_have(5)
        began_s = time.monotonic()
        reply = await crowd.client.post("/v1/re_isq", json={"isq_type": "Q8_0"})
        ended_s = time.monotonic()
        num_running = sum(not stream.is_whole for stream in crowd.streams)
        await crowd.stop()
    assert reply.status_code == 200, f"{reply.text}\n{stack.logs()}"
    swaps = [(w["before"], w["after"], w["error"]) for w in reply.json()["workers"]]
    assert swaps == [("Q2K", "Q8_0", None)] * 2
    assert num_running > num_streams // 2
    assert all(stream.is_whole for stream in crowd.streams)
    answers = [await asyncio.to_thread(said, client, stream) for stream in crowd.streams]
    gap_s = max(stream.longest_gap_s(began_s, ended_s) for stream in crowd.streams)
    sys.stdout.write(
        f"{num_streams} streams at a time, re_isq took {ended_s - began_s:.2f} s: "
        f"longest gap between two tokens of a stream {1000 * gap_s:.0f} ms\n"
    )
    prompts = _prompt_ids(crowd.streams)
    num_changed = await asyncio.to_thread(check_texts, answers, prompts, max_tokens)
    assert num_changed > num_streams // 3


def _prompt_ids(streams: list[Stream]) -> list[list[int]]:
    tokenizer = load_text_model(resolve(ModelRef(model="builtin"))).tokenizer
    return [tokenizer.encode(stream.prompt) for stream in streams]
