"""A running job, without Redis: engine outputs in, log entries out."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine.messages import EngineInfo, SequenceOutput, SequenceRequest
from tests.workers.test_prepare import INFO
from tests.workers.wire import check_log, ids_of, make_job, text_of
from workers.contract import Delta, Done, Event, Failed, Started, Tokens, decode_event, num_events
from workers.job_run import JobRun
from workers.prepare import prepare
from workers.redis_link import Scripts
from workers.run import ORDINARY, Attempt, Standing
from workers.runs import Runs
from workers.token_log import JobLog, TokenLog


class Door:
    """Remembers what goes into the engine."""

    def __init__(self) -> None:
        self.added: list[SequenceRequest] = []
        self.cancelled: list[str] = []

    def add(self, request: SequenceRequest) -> None:
        self.added.append(request)

    def cancel(self, sequence_id: str) -> None:
        self.cancelled.append(sequence_id)


class Table:
    """A run with its engine, its log and its router."""

    def __init__(
        self,
        text,
        job,
        *,
        past: Sequence[Event] = (),
        attempt: int = 1,
        runs: Runs | None = None,
        standing: Standing = ORDINARY,
        info: EngineInfo = INFO,
    ) -> None:
        self.door = Door()
        self.log = JobLog(job.id, job.home, [], sum(num_events(event) for event in past))
        self.past = list(past)
        token_log = TokenLog(NoScripts(), job_ttl_s=1, result_ttl_s=1)
        self.runs = runs or Runs(token_log)
        self.run = JobRun(
            job,
            prepare(job, text, info),
            text.tokenizer,
            Attempt(attempt, self.log, token_log, self.door, standing),
        )
        self.run.replay(past)
        self.runs.start(self.run)

    def tell(self, **outputs: SequenceOutput) -> None:
        """One engine step, in full: `c0=SequenceOutput(id="", …)`."""
        self.runs.on_outputs(
            [
                msgspec.structs.replace(output, id=f"j/{name[1:]}/{self.run.attempt}")
                for name, output in outputs.items()
            ]
        )

    def step(self, **outputs: tuple[list[int], str | None]) -> None:
        """One engine step: `c0=([1, 2], None)`."""
        self.runs.on_outputs(
            [
                SequenceOutput(id=f"j/{name[1:]}/{self.run.attempt}", token_ids=ids, finish=finish)
                for name, (ids, finish) in outputs.items()
            ]
        )

    @property
    def events(self) -> list[Any]:
        return self.past + [decode_event(entry) for entry in self.log.entries]


class NoScripts(Scripts):
    def __init__(self) -> None:
        pass


async def test_a_step_of_all_choices_is_one_entry(text):
    table = Table(text, make_job(n=2))
    table.step(c0=([10], None), c1=([11], None))
    table.step(c0=([12], "stop"))
    table.step(c1=([13], "length"))
    started, both, first, second, done = table.events
    assert isinstance(started, Started)
    assert [len(entry.deltas) for entry in (both, first, second)] == [2, 1, 1]
    assert isinstance(done, Done)
    assert done.usage.completion_tokens == 4
    assert done.usage.prompt_tokens == 3
    check_log(table.events)
    assert table.run.ended.result() == "over"


async def test_prompt_tokens_count_once_per_prompt(text):
    table = Table(text, make_job(n=2, prompts=[[5, 6], [7]]))
    assert table.events[0].prompt_tokens == 3
    assert table.run.usage.prompt_tokens == 3


async def test_cached_tokens_come_from_each_prompt_s_first_choice(text):
    table = Table(text, make_job(n=2))
    table.runs.on_outputs(
        [SequenceOutput(id=f"j/{n}/1", token_ids=[9], cached_tokens=2) for n in range(2)]
    )
    assert table.run.usage.cached_tokens == 2


async def test_a_stop_string_ends_the_sequence_in_the_engine(text):
    ids = text.tokenizer.encode("one two three", add_special_tokens=False)
    table = Table(text, make_job(stop=("tw",)))
    table.step(c0=(ids, None))
    assert table.door.cancelled == ["j/0/1"]
    assert text_of(table.events) == "one "
    assert table.events[1].deltas[0].finish == "stop"
    assert table.events[1].deltas[0].matched_stop == "tw"
    table.step(c0=([1], None))
    check_log(table.events)


async def test_a_cancel_fails_the_job_and_stops_all_its_sequences(text):
    table = Table(text, make_job(n=2))
    table.step(c0=([10], None))
    table.run.cancel()
    assert sorted(table.door.cancelled) == ["j/0/1", "j/1/1"]
    assert table.events[-1].code == "cancelled"
    check_log(table.events)
    table.step(c0=([11], None))
    assert isinstance(table.events[-1], Failed)


async def test_an_engine_s_refusal_fails_the_job_with_its_code(text):
    table = Table(text, make_job(n=2))
    table.runs.on_outputs([SequenceOutput(id="j/0/1", error=("context_length_exceeded", "no"))])
    assert table.events[-1].code == "context_length_exceeded"
    assert "j/1/1" in table.door.cancelled


async def test_a_later_attempt_goes_on_at_the_right_event(text):
    ids = text.tokenizer.encode("alpha beta gamma delta", add_special_tokens=False)
    job = make_job(max_tokens=len(ids))
    whole = Table(text, job)
    for id_ in ids[:-1]:
        whole.step(c0=([id_], None))
    whole.step(c0=(ids[-1:], "length"))
    for cut in range(1, len(ids) + 1):
        resumed = Table(text, job, past=whole.events[:cut], attempt=2)
        (request,) = resumed.door.added
        assert request.output_ids == ids[: cut - 1]
        for id_ in ids[cut - 1 : -1]:
            resumed.step(c0=([id_], None))
        resumed.step(c0=(ids[-1:], "length"))
        assert resumed.events == whole.events


async def test_only_unfinished_choices_go_on(text):
    job = make_job(n=2)
    first = Table(text, job)
    first.step(c0=([10], "stop"), c1=([11], None))
    resumed = Table(text, job, past=first.events, attempt=2)
    assert [request.id for request in resumed.door.added] == ["j/1/2"]
    resumed.step(c1=([12], "stop"))
    check_log(resumed.events)
    assert resumed.events[-1].usage.completion_tokens == 3


async def test_an_attempt_that_died_before_its_last_word_only_says_it(text):
    job = make_job()
    first = Table(text, job)
    first.step(c0=([10], "stop"))
    resumed = Table(text, job, past=first.events[:-1], attempt=2)
    assert resumed.door.added == []
    assert resumed.events == first.events


async def test_nothing_is_generated_for_zero_tokens(text):
    table = Table(text, make_job(max_tokens=0))
    assert table.door.added == []
    assert table.events[1].deltas[0].finish == "length"
    check_log(table.events)


async def test_outputs_of_an_earlier_attempt_find_nobody(text):
    table = Table(text, make_job(), past=[Started(0, 3)], attempt=2)
    table.runs.on_outputs([SequenceOutput(id="j/0/1", token_ids=[10])])
    assert ids_of(table.events) == []


async def test_one_job_s_bad_luck_does_not_end_the_others(text, monkeypatch):
    table = Table(text, make_job())
    monkeypatch.setattr(table.run.choices[0], "push", lambda *_: 1 / 0)
    table.step(c0=([10], None))
    assert table.events[-1].code == "internal_error"


async def test_who_cannot_be_started_does_not_hurt_who_made_room_for_it(text, monkeypatch):
    first = Table(text, make_job("a"), standing=Standing(crashes=3))
    second = Table(text, make_job("b", max_tokens=0), runs=first.runs, standing=Standing(crashes=3))
    assert second.events == []
    monkeypatch.setattr(second.run.choices[0], "push", lambda *_: 1 / 0)
    first.run.cancel()
    first.runs.remove(first.run)
    assert second.events[-1].code == "internal_error"


async def test_a_suspect_s_old_tokens_prove_nothing(text):
    past: list[Event] = [Started(0, 3), Tokens(1, (Delta(0, (8,), "x"),))]
    job = make_job("a", n=2, max_tokens=1)
    suspect = Table(text, job, past=past, attempt=2, standing=Standing(crashes=1))
    assert [request.id for request in suspect.door.added] == ["a/1/2"]
    new = Table(text, make_job("b"), runs=suspect.runs)
    suspect.runs.on_outputs([])
    assert new.door.added == []
    suspect.runs.on_outputs([SequenceOutput(id="a/1/2", token_ids=[10])])
    assert len(new.door.added) == 1


@pytest.mark.parametrize(
    ("leave", "end"),
    [("abandon", "lost"), ("hand_back", "left"), ("lose_engine", "engine_died")],
)
async def test_leaving_writes_nothing(text, leave, end):
    table = Table(text, make_job())
    table.step(c0=([10], None))
    getattr(table.run, leave)()
    assert table.run.ended.result() == end
    assert isinstance(table.events[-1], Tokens)
