"""Cancels are sent in order, again after an outage, and not for ever."""

import asyncio

import pytest

from api.canceller import Cancel, Canceller
from api.errors import ApiError


class Queue:
    def __init__(self):
        self.sent = []
        self.num_failures = 0

    async def send(self, cancel):
        if self.num_failures:
            self.num_failures -= 1
            raise ApiError("queue_unavailable", "away")
        self.sent.append(cancel.job_id)


@pytest.fixture
async def queue():
    return Queue()


@pytest.fixture
async def canceller(queue, monkeypatch):
    monkeypatch.setattr("api.canceller._RETRY_S", 0.01)
    canceller = Canceller(queue.send)
    task = asyncio.create_task(canceller.run())
    yield canceller
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("num_failures", [0, 3])
async def test_all_are_sent_in_order(canceller, queue, num_failures):
    queue.num_failures = num_failures
    for job_id in "abc":
        canceller.put(Cancel(job_id, "home", "q"))
    await canceller.settle(2)
    assert queue.sent == ["a", "b", "c"]


async def test_an_outage_that_lasts_is_given_up_with_a_word(canceller, queue, monkeypatch, caplog):
    monkeypatch.setattr("api.canceller.GIVE_UP_S", 0.0)
    queue.num_failures = 1
    canceller.put(Cancel("a", "home", "q"))
    canceller.put(Cancel("b", "home", "q"))
    await canceller.settle(2)
    assert queue.sent == ["b"]
    assert "job a was not cancelled" in caplog.text


async def test_waiting_for_it_has_an_end(canceller, queue):
    queue.num_failures = 10**6
    canceller.put(Cancel("a", "home", "q"))
    await asyncio.wait_for(canceller.settle(0.05), 1)
