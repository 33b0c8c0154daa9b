"""What a resume must not tear: characters, stop strings, choices, ends."""

import asyncio
import random

import pytest

from engine.text.detokenizer import Detokenizer
from tests.chaos.client import CHAT, Stream, request
from tests.chaos.crowd import question
from tests.chaos.fleet import eventually
from workers import contract

ECHO_SEED = 77  # the engine repeats the prompt
COMPLETIONS = "/v1/completions"


@pytest.fixture
def slow_fleet(start_fleet):
    """One worker with a step slow enough to be met inside a character."""
    return start_fleet(SCRIPTED_STEP_MS="60", SCRIPTED_ECHO_SEED=str(ECHO_SEED))


def token_ids(events, choice=0):
    deltas = [d for e in events if isinstance(e, contract.Tokens) for d in e.deltas]
    return [i for d in deltas if d.choice == choice for i in d.token_ids]


def shown(events, choice=0):
    deltas = [d for e in events if isinstance(e, contract.Tokens) for d in e.deltas]
    return "".join(d.text for d in deltas if d.choice == choice)


async def kill_when(fleet, stream, condition):
    """SIGKILL the worker at a moment when `condition` holds for the job's log, and replace it."""
    (worker,) = fleet.workers
    await eventually(lambda: stream.job_id, "the job is there")
    async with asyncio.timeout(30):
        while True:
            worker.pause()
            await asyncio.sleep(0.02)  # what it sent before reaches Redis
            if condition(events := fleet.log_of(stream.job_id)):
                break
            worker.resume()
            await asyncio.sleep(0.015)
    worker.kill_tree()
    fleet.start_worker()
    return events


async def test_a_character_may_be_split_by_a_crash(slow_fleet, oracle):
    tokenizer = oracle.tokenizer
    text = "🦊🌬️🧭𝄞"
    prompt = tokenizer.encode(text)
    assert len(prompt) >= 3 * len(text), "each is several tokens"

    def is_inside_a_character(events):
        ids = token_ids(events)
        detokenizer = Detokenizer(tokenizer, is_continuation=True)
        detokenizer.push(ids)
        return len(ids) > 5 and "\ufffd" in detokenizer.flush()

    body = {"model": "any", "prompt": prompt, "seed": ECHO_SEED, "max_tokens": 3 * len(prompt)}
    stream = Stream(slow_fleet.ports, body, path=COMPLETIONS)
    running = asyncio.create_task(stream.run())
    await kill_when(slow_fleet, stream, is_inside_a_character)
    await asyncio.wait_for(running, 60)
    assert stream.text() == 3 * text
    assert slow_fleet.attempts(stream.job_id) == 2


async def test_a_stop_string_may_be_split_by_a_crash(slow_fleet, oracle):
    text, stop = "one two three four five six seven eight nine ten ", " seven eight nine"
    prompt = oracle.tokenizer.encode(text)

    def is_holding_text_back(events):
        whole = Detokenizer(oracle.tokenizer, is_continuation=True).push(token_ids(events))
        return len(whole) - len(shown(events)) > 6

    body = {"model": "any", "prompt": prompt, "seed": ECHO_SEED, "max_tokens": 500, "stop": stop}
    stream = Stream(slow_fleet.ports, body, path=COMPLETIONS)
    running = asyncio.create_task(stream.run())
    await kill_when(slow_fleet, stream, is_holding_text_back)
    await asyncio.wait_for(running, 60)
    assert stream.text() == text.partition(stop)[0]
    assert stream.finishes() == ["stop"]
    assert slow_fleet.attempts(stream.job_id) == 2


async def test_a_choice_that_had_finished_stays_as_it_was(slow_fleet, oracle):
    body = question(5, 60, n=4)
    texts = [oracle.answer(body, choice) for choice in range(4)]
    stop = own_piece(texts, 2, len(texts[2]) // 4)
    stream = Stream(slow_fleet.ports, body | {"stop": stop})
    running = asyncio.create_task(stream.run())

    def has_one_finished(events):
        deltas = [d for e in events if isinstance(e, contract.Tokens) for d in e.deltas]
        return {d.choice for d in deltas if d.finish} == {2}

    await kill_when(slow_fleet, stream, has_one_finished)
    await asyncio.wait_for(running, 60)
    texts[2] = texts[2].partition(stop)[0]
    assert [stream.text(choice) for choice in range(4)] == texts
    finishes = [["length"], ["length"], ["stop"], ["length"]]
    assert [stream.finishes(choice) for choice in range(4)] == finishes
    assert slow_fleet.attempts(stream.job_id) == 2


def own_piece(texts, choice, start):
    """Some characters of one text from `start` on that no other text has."""
    others = [text for number, text in enumerate(texts) if number != choice]
    for length in range(1, 30):
        piece = texts[choice][start : start + length]
        if texts[choice].index(piece) == start and not any(piece in text for text in others):
            return piece
    raise AssertionError("the texts are too much alike")


async def test_a_cancel_that_races_with_the_end_leaves_one_end(fleet):
    rng = random.Random(1)
    ids = []

    async def leave_near_the_end(number):
        answer = await request(
            fleet.ports[number % 2], "POST", CHAT, question(number, 10, stream=True)
        )
        try:
            ids.append(answer.headers["x-job-id"])
            async for frame in answer.frames():
                if frame.event_id is not None and frame.event_id >= 8:
                    await asyncio.sleep(rng.random() * 0.045)
                    return
        finally:
            answer.close()

    await asyncio.gather(*map(leave_near_the_end, range(200)))
    await eventually(lambda: fleet.num_unfinished() == 0, "every job has ended")
    await eventually(lambda: fleet.num_running() == 0, "every sequence is freed")
    ends = []
    for job_id in ids:
        *before, last = fleet.log_of(job_id)
        assert contract.is_terminal(last)
        assert not any(map(contract.is_terminal, before))
        ends.append(type(last))
    assert set(ends) == {contract.Done, contract.Failed}, "both happened"
