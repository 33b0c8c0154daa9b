"""Batches reach their readers; what is missed is read from the log; what is lost is said."""

import asyncio
import contextlib

import pytest

from api.delivery import MAX_WAITING, Reader
from api.errors import ApiError
from api.relay import MAX_AT_ONCE, LogSlice, Relay
from workers.contract import (
    Append,
    Delta,
    Done,
    Fence,
    Started,
    Tokens,
    Usage,
    encode,
    encode_batch,
)


def tokens(offset):
    return Tokens(offset, (Delta(0, (offset,), f"{offset} "),))


LOG = [Started(0, 1), *map(tokens, range(1, 9)), Done(9, Usage(1, 8))]


class Logs:
    """Redis' lists, as the relay reads them."""

    def __init__(self):
        self.lists = {}
        self.reads = []
        self.is_away = False

    async def read(self, places):
        self.reads.append(list(places))
        if self.is_away:
            raise ApiError("queue_unavailable", "away")
        return [
            LogSlice([encode(e) for e in self.lists[job][start:]], True)
            if job in self.lists
            else LogSlice([], False)
            for job, start in places
        ]


def batch(*items):
    return encode_batch([Append(job, index, encode(event)) for job, index, event in items])


@contextlib.asynccontextmanager
async def running(logs, ping_s=15.0):
    relay = Relay(logs.read, ping_s)
    task = asyncio.create_task(relay.run())
    yield relay
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition, timeout_s=3.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (what it waits for has no event)
            await asyncio.sleep(0.001)


def added(relay, job="j"):
    reader = Reader(job)
    relay.add(reader)
    return reader


async def test_a_batch_reaches_every_reader_of_its_jobs_and_no_other():
    async with running(Logs()) as relay:
        first, second, other = added(relay), added(relay), added(relay, "k")
        relay.deliver(batch(("j", 0, LOG[0]), ("k", 0, LOG[0]), ("nobody", 0, LOG[0])))
        relay.deliver(batch(("j", 1, LOG[1])))
        assert first.take() == second.take() == LOG[:2]
        assert other.take() == LOG[:1]
        relay.remove(first)
        relay.deliver(batch(("j", 2, LOG[2])))
        assert first.take() == []
        assert relay.has_readers("j")
        assert relay.num_readers == 2


async def test_a_gap_is_filled_from_the_log():
    logs = Logs()
    logs.lists["j"] = LOG[:4]
    async with running(logs) as relay:
        reader = added(relay)
        relay.deliver(batch(("j", 3, LOG[3])))
        await until(lambda: reader.next_index == 4)
        assert reader.take() == LOG[:4]
        assert logs.reads == [[("j", 0)]]


async def test_after_a_new_subscription_every_log_is_read_again():
    logs = Logs()
    logs.lists = {"j": LOG, "k": LOG[:2]}
    async with running(logs) as relay:
        readers = added(relay), added(relay, "k")
        relay.reread_all()
        await until(lambda: all(r.next_index for r in readers))
        assert [r.take() for r in readers] == [LOG, LOG[:2]]


async def test_many_readers_are_served_a_few_at_a_time():
    logs = Logs()
    logs.lists = {str(i): LOG for i in range(3 * MAX_AT_ONCE)}
    async with running(logs) as relay:
        readers = [added(relay, job) for job in logs.lists]
        relay.reread_all()
        await until(lambda: all(r.is_over for r in readers))
        assert max(map(len, logs.reads)) == MAX_AT_ONCE


async def test_an_outage_is_waited_out():
    logs = Logs()
    logs.lists["j"] = LOG
    logs.is_away = True
    async with running(logs) as relay:
        reader = added(relay)
        relay.ask(reader)
        await until(lambda: len(logs.reads) >= 2)
        logs.is_away = False
        await until(lambda: reader.is_over)


async def test_silence_makes_it_look_and_ping(monkeypatch):
    monkeypatch.setattr("api.relay.REREAD_S", 0.05)
    logs = Logs()
    async with running(logs, ping_s=0.1) as relay:
        reader = added(relay)
        reader.wants_pings = True
        await until(lambda: reader.ping_due)
        logs.lists["j"] = LOG
        await until(lambda: reader.is_over)


async def test_a_job_without_a_trace_is_given_up_after_some_looks(monkeypatch):
    monkeypatch.setattr("api.relay.REREAD_S", 0.03)
    async with running(Logs(), ping_s=0.06) as relay:
        reader = added(relay)
        await until(lambda: reader.is_over)
        (failed,) = reader.take()
        assert failed.code == "job_lost"


async def test_a_log_that_is_shorter_than_what_was_published_is_not_read_in_a_loop():
    logs = Logs()
    logs.lists["j"] = LOG[:2]
    async with running(logs) as relay:
        reader = added(relay)
        relay.deliver(batch(("j", 5, LOG[5])))
        await asyncio.sleep(0.1)
        assert len(logs.reads) <= 2
        logs.lists["j"] = LOG
        relay.ask(reader)
        await until(lambda: reader.is_over)


async def test_a_full_reader_is_read_for_again_when_it_has_room():
    logs = Logs()
    logs.lists["j"] = [Fence(1, "w")] + [tokens(i) for i in range(MAX_WAITING + 50)]
    async with running(logs) as relay:
        reader = added(relay)
        relay.ask(reader)
        await until(lambda: reader.is_full)
        reader.take()
        relay.ask(reader)
        await until(lambda: reader.next_index == MAX_WAITING + 51)


@pytest.mark.parametrize("data", [b"", b"\xc1", encode((99, []))], ids=["empty", "junk", "other"])
async def test_a_batch_that_cannot_be_read_is_logged_and_harmless(data, caplog):
    async with running(Logs()) as relay:
        added(relay)
        relay.deliver(data)
        assert "batch" in caplog.text


async def test_an_entry_that_cannot_be_read_ends_its_stream_with_an_error():
    async with running(Logs()) as relay:
        reader = added(relay)
        relay.deliver(encode_batch([Append("j", 0, b"\x91\xa1?")]))
        (failed,) = reader.take()
        assert failed.code == "internal_error"


async def test_draining_tells_everyone():
    async with running(Logs()) as relay:
        reader = added(relay)
        relay.drain()
        assert not reader.is_open
