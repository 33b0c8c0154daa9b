"""Log-probabilities and echoed prompts in a job's log: with their tokens, once, over attempts."""

from engine.messages import SequenceOutput, TokenLogprob
from tests.workers.test_job_run import Table
from tests.workers.wire import check_log, make_job, text_of
from workers import contract
from workers.contract import Delta, Done


def told(*values):
    return [TokenLogprob(value, ((7, value + 0.5), (8, -9.0))) for value in values]


def output(ids, finish=None, logprobs=(), prompt=()):
    return SequenceOutput(
        id="", token_ids=ids, finish=finish, logprobs=told(*logprobs), prompt_logprobs=told(*prompt)
    )


def on_wire(text, ids, *values):
    name = text.tokenizer.token_bytes
    return tuple(
        contract.TokenLogprob(name(i), value, ((name(7), value + 0.5), (name(8), -9.0)))
        for i, value in zip(ids, values, strict=True)
    )


def deltas(table):
    return [d for e in table.events if isinstance(e, contract.Tokens) for d in e.deltas]


async def test_the_engine_is_asked_and_its_words_become_bytes(text):
    table = Table(text, make_job(logprobs=2))
    assert table.door.added[0].params.num_logprobs == 2
    assert table.door.added[0].params.num_prompt_logprobs is None
    table.tell(c0=output([40, 41], logprobs=(-1.0, -2.0)))
    (delta,) = deltas(table)
    assert delta.logprobs == on_wire(text, [40, 41], -1.0, -2.0)


async def test_nothing_is_told_unasked(text):
    table = Table(text, make_job())
    table.tell(c0=output([40]))
    assert table.door.added[0].params.num_logprobs is None
    assert deltas(table)[0].logprobs is None


async def test_tokens_behind_a_stop_string_are_not_told(text):
    ids = text.tokenizer.encode("one two three", add_special_tokens=False)
    table = Table(text, make_job(logprobs=0, stop=("one",)))
    table.tell(c0=output(ids, logprobs=[-1.0] * len(ids)))
    (delta,) = deltas(table)
    assert 0 < len(delta.token_ids) < len(ids)
    assert len(delta.logprobs) == len(delta.token_ids)


async def test_a_prompt_that_is_text_is_echoed_as_it_came(text):
    table = Table(text, make_job(prompts=["hello  there"], shows_prompt=True))
    table.tell(c0=output([40], "stop"))
    echo, answer = deltas(table)
    assert echo == Delta(0, (), "hello  there", None, None, is_prompt=True)
    assert answer.text == text.tokenizer.decode([40])
    assert isinstance(table.events[-1], Done)
    assert table.events[-1].usage.completion_tokens == 1
    check_log(table.events)


async def test_a_prompt_of_ids_is_echoed_as_their_text(text):
    ids = text.tokenizer.encode("hello there", add_special_tokens=False)
    table = Table(text, make_job(prompts=[ids], shows_prompt=True))
    assert deltas(table)[0].text == text.tokenizer.decode(ids, skip_special_tokens=False)


async def test_an_echoed_prompt_waits_for_its_log_probabilities(text):
    prompt = [40, 41, 42]
    table = Table(text, make_job(prompts=[prompt], shows_prompt=True, logprobs=2))
    assert deltas(table) == []
    assert table.door.added[0].params.num_prompt_logprobs == 2
    table.tell(c0=output([43], "length", logprobs=[-4.0], prompt=(-1.0, -2.0)))
    echo, answer = deltas(table)
    first = contract.TokenLogprob(text.tokenizer.token_bytes(40), None)
    assert echo.logprobs == (first, *on_wire(text, [41, 42], -1.0, -2.0))
    assert answer.logprobs == on_wire(text, [43], -4.0)


async def test_an_echo_of_no_tokens_ends_with_its_prompt(text):
    table = Table(text, make_job(prompts=[[40, 41]], shows_prompt=True, logprobs=2, max_tokens=0))
    table.tell(c0=output([], "length", prompt=(-1.0,)))
    echo, end = deltas(table)
    assert (len(echo.logprobs), end.token_ids, end.finish) == (2, (), "length")
    assert table.run.ended.result() == "over"


async def test_an_echo_of_no_tokens_and_no_logprobs_needs_no_engine(text):
    table = Table(text, make_job(prompts=["hello"], shows_prompt=True, max_tokens=0))
    assert table.door.added == []
    assert text_of(table.events) == "hello"
    assert table.run.ended.result() == "over"


async def test_a_prompt_is_echoed_once_over_attempts(text):
    job = make_job(prompts=[[40, 41]], shows_prompt=True, logprobs=2, max_tokens=4)
    first = Table(text, job)
    first.tell(c0=output([43], logprobs=[-4.0], prompt=(-1.0,)))
    second = Table(text, job, past=first.events, attempt=2)
    assert second.door.added[0].params.num_prompt_logprobs is None
    assert second.door.added[0].output_ids == [43]
    second.tell(c0=output([44], "stop", logprobs=[-5.0]))
    assert [delta.is_prompt for delta in deltas(second)] == [True, False, False]
    check_log(second.events)


async def test_every_choice_of_every_prompt_begins_with_its_prompt(text):
    table = Table(text, make_job(prompts=["one", "two"], n=2, shows_prompt=True))
    assert [(d.choice, d.text) for d in deltas(table)] == [
        *((0, "one"), (1, "one"), (2, "two"), (3, "two")),
    ]
