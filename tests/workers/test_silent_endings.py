"""Jobs that arq drops without a word, and our own failures: each log gets its terminal entry."""

from tests.workers.wire import QUEUE, check_log, make_job
from workers import contract
from workers.contract import Failed, Started
from workers.worker import MAX_TRIES


class TestSilentEndings:
    """arq drops these jobs without a call of ours; a client would wait for ever."""

    async def failure(self, wire) -> Failed:
        events = await wire.finished()
        check_log(events)
        assert isinstance(events[-1], Failed)
        await self.leaves_the_queue(wire)
        return events[-1]

    async def leaves_the_queue(self, wire) -> None:
        async def is_gone() -> bool:
            return await wire.client.zscore(QUEUE, "j") is None

        await wire.until_true(is_gone)

    async def test_a_job_whose_arq_record_expired(self, local_worker, wire):
        await wire.enqueue(make_job())
        await wire.client.delete(contract.arq_job_key("j"))
        local_worker().start()
        assert (await self.failure(wire)).code == "job_expired"

    async def test_a_job_of_which_only_the_queue_entry_is_left(self, local_worker, wire):
        await wire.enqueue(make_job())
        await wire.client.delete(contract.arq_job_key("j"), contract.job_key("j"))
        local_worker().start()
        assert (await self.failure(wire)).code == "job_expired"

    async def test_an_undecodable_arq_record(self, local_worker, wire):
        await wire.enqueue(make_job(), arq_record=b"\xff\xff")
        local_worker().start()
        assert (await self.failure(wire)).code == "unreadable_job"

    async def test_a_function_nobody_has(self, local_worker, wire):
        record = contract.encode({"t": None, "f": "other", "a": ("j",), "k": {}, "et": 1})
        await wire.enqueue(make_job(), arq_record=record)
        local_worker().start()
        assert (await self.failure(wire)).code == "unreadable_job"

    async def test_too_many_attempts(self, local_worker, wire):
        await wire.enqueue(make_job())
        await wire.client.set("arq:retry:j", MAX_TRIES)
        local_worker().start()
        assert (await self.failure(wire)).code == "too_many_attempts"

    async def test_a_job_record_of_another_version(self, local_worker, wire):
        await wire.enqueue(make_job(version=99))
        local_worker().start()
        failed = await self.failure(wire)
        assert failed.code == "unreadable_job"
        assert "schema 99" in failed.message

    async def test_a_log_that_cannot_be_read(self, local_worker, wire):
        await wire.enqueue(make_job())
        await wire.client.rpush("log:j", contract.encode(Started(0, 3)), b"\x92\xa1q\x01")
        local_worker().start()
        await self.leaves_the_queue(wire)
        last = contract.decode_event(await wire.client.lindex("log:j", -1))
        assert isinstance(last, Failed)
        assert last.code == "unreadable_job"

    async def test_an_error_of_ours(self, local_worker, wire, monkeypatch):
        worker = local_worker()
        monkeypatch.setattr("workers.generate.prepare", lambda *_: 1 / 0)
        worker.start()
        await wire.enqueue(make_job())
        assert (await self.failure(wire)).code == "internal_error"

    async def test_a_job_that_runs_too_long(self, local_worker, wire):
        local_worker(job_ttl_s=1, step_s=0.01).start()
        await wire.enqueue(make_job(max_tokens=3000))
        assert (await self.failure(wire)).code == "timeout"
