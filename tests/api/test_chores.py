"""Chores are done once they are due, by whoever lives, again after a death, and not for ever."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions

from api.chores import FAILURES_KEY, MAX_RUNNING, Chores
from api.errors import ApiError
from tests.api.until import until
from workers import contract

ROOT = Path(__file__).parents[2]


async def call(command):
    try:
        return await command()
    except (redis.exceptions.ConnectionError, OSError) as error:
        raise ApiError("queue_unavailable", "away") from error


class Desk:
    """API processes that do chores, all in this one."""

    def __init__(self, url):
        self.client = redis.asyncio.Redis.from_url(url)
        self.runs = []
        self.done = []

    def hire(self, handler=None, *, kind="test", visibility_s=30.0):
        chores = Chores(self.client, call, visibility_s=visibility_s)
        chores.register(kind, handler or self.do)
        self.runs.append(asyncio.create_task(chores.run()))
        return chores

    async def do(self, argument):
        self.done.append(argument)

    async def fire(self):
        """Stop all as a process that ends does."""
        for run in self.runs:
            run.cancel()
        await asyncio.gather(*self.runs, return_exceptions=True)
        self.runs.clear()

    async def add(self, chore, due_ms=0):
        await self.client.zadd(contract.CHORES_KEY, {chore: due_ms})

    async def left(self):
        return [name.decode() for name in await self.client.zrange(contract.CHORES_KEY, 0, -1)]

    async def due_in_s(self, chore):
        """None when there is no such chore."""
        score = await self.client.zscore(contract.CHORES_KEY, chore)
        seconds, micros = await self.client.time()
        return None if score is None else score / 1000 - seconds - micros / 1e6

    async def until_nothing_is_left(self):
        await until(self._has_none)

    async def _has_none(self):
        return not await self.left()

    async def has_failed(self, chore, number):
        return await self.client.hget(FAILURES_KEY, chore) == b"%d" % number

    async def was_renewed(self, chore, score):
        return await self.client.zscore(contract.CHORES_KEY, chore) != score


@pytest.fixture
async def desk(redis_url, monkeypatch):
    monkeypatch.setattr("api.chores.POLL_S", 0.05)
    desk = Desk(redis_url)
    yield desk
    await desk.fire()
    await desk.client.aclose()


async def test_what_is_due_is_done_once_and_what_is_not_stays(desk):
    desk.hire()
    await desk.add("test:a:b")
    await desk.add("test:later", 9e12)
    await until(lambda: desk.done)
    await asyncio.sleep(0.3)
    assert desk.done == ["a:b"]
    assert await desk.left() == ["test:later"]


async def test_a_wake_up_brings_a_look_at_once(desk, monkeypatch):
    monkeypatch.setattr("api.chores.POLL_S", 1000)
    chores = desk.hire()
    await asyncio.sleep(0.2)
    await desk.add("test:a")
    await asyncio.sleep(0.2)
    assert desk.done == []
    chores.wake()
    await until(lambda: desk.done)


async def test_a_kind_with_long_chores_leaves_room_for_the_others(desk, monkeypatch):
    monkeypatch.setattr("api.chores.MAX_RUNNING", 2)
    monkeypatch.setattr("api.chores._CROWDED_S", (0.01, 0.02))
    may_end = asyncio.Event()
    long = []

    async def wait(argument):
        long.append(argument)
        await may_end.wait()

    chores = desk.hire()
    chores.register("long", wait, most=1)
    for name in ("long:a", "long:b"):
        await desk.add(name)
    await until(lambda: long)
    await desk.add("test:quick", 1)
    await until(lambda: desk.done == ["quick"])
    assert long == ["a"]
    may_end.set()
    await desk.until_nothing_is_left()
    assert sorted(long) == ["a", "b"]


async def test_a_process_that_was_full_looks_again_when_it_is_not(desk, monkeypatch):
    monkeypatch.setattr("api.chores.POLL_S", 1000)
    await desk.client.zadd(contract.CHORES_KEY, {f"test:{i}": 0 for i in range(3 * MAX_RUNNING)})
    desk.hire()
    await desk.until_nothing_is_left()
    assert len(desk.done) == 3 * MAX_RUNNING


async def test_a_chore_that_is_put_in_tells_the_other_processes(desk):
    chores = Chores(desk.client, call)
    async with desk.client.pubsub() as channel:
        await channel.subscribe(contract.CHORES_CHANNEL)
        await channel.get_message(timeout=5)
        await chores.put("test:a")
        message = await channel.get_message(timeout=5)
    assert message["data"] == b"1"


async def test_a_chore_that_is_put_in_twice_is_due_at_the_earlier_time(desk):
    chores = Chores(desk.client, call)
    for delay_s in (600, 60, 600):
        await chores.put("test:a", delay_s)
    assert 50 < await desk.due_in_s("test:a") <= 60


async def test_a_handler_says_when_it_wants_to_go_on(desk):
    answers = [0.05, 0.0, 300.0]

    async def handler(argument):
        desk.done.append(time.monotonic())
        return answers.pop(0)

    desk.hire(handler)
    await desk.add("test:a")
    await until(lambda: not answers)
    await desk.fire()
    assert desk.done[1] - desk.done[0] >= 0.05
    assert 290 < await desk.due_in_s("test:a") <= 300


async def test_a_failure_is_told_without_its_words_and_tried_again_later_and_later(desk, caplog):
    words = ["the prompt"]

    async def handler(argument):
        desk.done.append(argument)
        if words:
            raise ValueError(*words)

    desk.hire(handler, visibility_s=100)
    expected = [(90, 100), (190, 200), (390, 400), (790, 800), (890, 900), (890, 900)]
    for number, (least, most) in enumerate(expected, 1):
        await desk.add("test:a")
        await until(partial(desk.has_failed, "test:a", number))
        assert least < await desk.due_in_s("test:a") <= most
    assert "chore test:a failed: ValueError, at" in caplog.text
    assert "in handler" in caplog.text
    assert "the prompt" not in caplog.text
    words.clear()
    await desk.add("test:a")
    await desk.until_nothing_is_left()
    assert not await desk.client.exists(FAILURES_KEY)


async def test_a_long_chore_is_kept(desk):
    was_kept = asyncio.Event()

    async def handler(argument):
        desk.done.append(argument)
        await was_kept.wait()

    desk.hire(handler, visibility_s=3.0)
    desk.hire(handler, visibility_s=3.0)
    await desk.add("test:a")
    await until(lambda: desk.done)
    first = await desk.client.zscore(contract.CHORES_KEY, "test:a")
    await until(lambda: desk.was_renewed("test:a", first))
    was_kept.set()
    await desk.until_nothing_is_left()
    assert desk.done == ["a"]


async def test_a_chore_that_is_put_in_again_while_it_is_done_is_done_again(desk):
    may_end = asyncio.Event()

    async def handler(argument):
        desk.done.append(argument)
        if len(desk.done) == 1:
            await may_end.wait()

    chores = desk.hire(handler)
    await desk.add("test:a")
    await until(lambda: desk.done)
    await chores.put("test:a", 0.5)
    may_end.set()
    await until(lambda: len(desk.done) == 2)
    await desk.until_nothing_is_left()


async def test_one_process_does_a_chore_once_at_a_time(desk):
    running = most = 0

    async def handler(argument):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.3)
        running -= 1
        desk.done.append(argument)

    chores = desk.hire(handler)
    for _ in range(10):
        await chores.put("test:a")
        await asyncio.sleep(0.1)
    await desk.until_nothing_is_left()
    assert most == 1
    assert len(desk.done) > 1


async def test_what_a_stopping_process_has_begun_is_due_at_once(desk):
    started = []

    async def endless(argument):
        started.append(argument)
        await asyncio.Event().wait()

    desk.hire(endless)
    await desk.add("test:a")
    await until(lambda: started)
    await desk.fire()
    assert await desk.due_in_s("test:a") <= 0
    desk.hire()
    await desk.until_nothing_is_left()
    assert desk.done == ["a"]


DYING = """
import asyncio, sys
import redis.asyncio
from api.chores import Chores

async def call(command):
    return await command()

async def handler(argument):
    print("taken", flush=True)
    await asyncio.Event().wait()

async def main():
    chores = Chores(redis.asyncio.Redis.from_url(sys.argv[1]), call, visibility_s=2.0)
    chores.register("test", handler)
    await chores.run()

asyncio.run(main())
"""


async def test_another_process_goes_on_after_one_was_killed(desk, redis_url):
    await desk.add("test:a")
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", DYING, redis_url], cwd=ROOT, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"taken\n"
        desk.hire()
        await asyncio.sleep(1.5)
        assert desk.done == []
        process.send_signal(signal.SIGKILL)
    await until(lambda: desk.done)
    await desk.until_nothing_is_left()
    assert desk.done == ["a"]


async def test_a_kind_that_nobody_here_knows_is_left_to_others_with_a_word(desk, caplog):
    desk.hire(kind="other", visibility_s=0.3)
    await desk.add("test:a")
    await desk.add("test:b")
    await until(lambda: "kind 'test'" in caplog.text)
    await asyncio.sleep(1.0)
    assert caplog.text.count("kind 'test'") == 1
    desk.hire()
    await desk.until_nothing_is_left()
    assert sorted(desk.done) == ["a", "b"]


async def test_processes_share_the_chores_and_do_none_twice(desk):
    running = most = 0

    async def handler(argument):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        desk.done.append(argument)

    await desk.client.zadd(contract.CHORES_KEY, {f"test:{i}": 0 for i in range(300)})
    desk.hire(handler)
    await until(lambda: len(desk.done) > 100)
    assert most == MAX_RUNNING
    desk.hire(handler)
    desk.hire(handler)
    await desk.until_nothing_is_left()
    assert sorted(desk.done, key=int) == [str(i) for i in range(300)]


async def test_an_outage_of_redis_is_waited_for_in_silence(redis_server, caplog):
    caplog.set_level(logging.INFO)
    desk = Desk(redis_server.url)
    started, may_end = asyncio.Event(), asyncio.Event()

    async def handler(argument):
        desk.done.append(argument)
        started.set()
        if argument == "a":
            await may_end.wait()

    desk.hire(handler, visibility_s=1.0)
    await desk.add("test:a")
    await desk.add("test:b", 9e12)
    await started.wait()
    redis_server.stop()
    await asyncio.sleep(1.5)
    redis_server.start()
    may_end.set()
    await desk.add("test:b")
    await desk.until_nothing_is_left()
    await desk.fire()
    await desk.client.aclose()
    assert desk.done[0] == "a"
    assert desk.done.count("b") == 1
    assert caplog.text == ""
