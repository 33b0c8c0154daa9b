"""Grammars are tried apart: what is bad, huge or slow is told within half a second of work."""

import asyncio
import contextlib
import json
import os
import signal
import time

import psutil
import pytest
import uvloop

from engine.errors import InvalidInput
from engine.text.grammar_text import of_gbnf_or_lark, of_json_schema, of_lark, of_regex
from workers.grammar_child import CPU_S, WALL_S
from workers.grammar_frames import MAX_BYTES
from workers.grammar_trial import GrammarTrial


@pytest.fixture
async def trial(model_files, text):
    trial = GrammarTrial(model_files, 2048, text.tokenizer.eos_ids)
    yield trial
    await trial.close()


def nested(depth):
    schema = '{"type":"string"}'
    for _ in range(depth):
        schema = '{"type":"array","items":' + schema + "}"
    return '{"grammars":[{"json_schema":' + schema + "}]}"


def choices(count, width):
    names = [[f"p{i}_{j}" for j in range(width)] for i in range(count)]
    return {"anyOf": [{"properties": {key: {"type": "string"} for key in part}} for part in names]}


def chain(length):
    rules = [f'r{i} ::= r{i + 1} | "a"' for i in range(length)]
    return "\n".join(["root ::= r0", *rules, f'r{length} ::= "b"'])


def object_of(count):
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


HOSTILE = {
    "no schema": of_json_schema({"type": "colour"}),
    "a loop": of_json_schema({"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}),
    "a loop of none": of_json_schema({"$ref": "#"}),
    "nested deep": nested(5000),
    "a large divisor": of_json_schema({"type": "integer", "multipleOf": 999_983}),
    "huge counts": of_regex("a{1,99999999999999999999}"),
    "patterns that overlap": of_json_schema({"patternProperties": {"^a": {}, "a$": {}}}),
    "5,000 properties": of_json_schema(object_of(5000)),
    "another site's": of_json_schema({"$ref": "http://example.com/schema.json"}),
    "a product": of_json_schema({"allOf": [choices(8, 1) for _ in range(8)]}),
    "many choices": of_json_schema(choices(180, 40)),
    "huge": "x" * (MAX_BYTES + 1),
    "look-around": of_regex("a(?=b)"),
    "endless": of_lark("start: s\ns: s"),
    "no json": '{"grammars": [',
    "no list": json.dumps({"grammars": 7}),
    "no gbnf": of_gbnf_or_lark("a ::= ["),
    "gbnf without a root": of_gbnf_or_lark('a ::= "b"'),
    "gbnf of many rules": of_gbnf_or_lark(chain(4000)),
    "gbnf nested deep": of_gbnf_or_lark("root ::= " + "(" * 9000 + '"a"' + ")" * 9000),
}


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
async def test_what_cannot_be_followed_is_refused_before_long(trial, grammar):
    await trial.check(of_regex("a+"), None)  # the child is there
    began_s = time.monotonic()
    with pytest.raises(InvalidInput) as refusal:
        await trial.check(grammar, "response_format")
    assert time.monotonic() - began_s < WALL_S
    assert refusal.value.param == "response_format"
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("grammar", [of_regex("[^\\s\\S]"), of_lark("start: start")])
async def test_what_no_text_fits_is_refused_in_words(trial, grammar):
    with pytest.raises(InvalidInput, match="No text fits it"):
        await trial.check(grammar, "grammar")


async def test_good_ones_pass_beside_bad_ones(trial):
    good = [of_regex(f"a{{{i}}}") for i in range(1, 9)]
    results = await asyncio.gather(
        *(trial.check(grammar, "g") for grammar in [*HOSTILE.values(), *good]),
        return_exceptions=True,
    )
    assert all(isinstance(result, InvalidInput) for result in results[: len(HOSTILE)])
    assert results[len(HOSTILE) :] == good


SLOW = {
    "nested counts": of_regex("((a{1,100}){1,100}){1,100}"),
    "optional letters": of_regex("(a?){200}a{200}"),
    "an exponential automaton": of_regex("[ab]*a[ab]{200}"),
    "a billion letters": of_regex("a{1,1000000000}"),
    "large counts of properties": of_json_schema({"patternProperties": {"^.{1,100000}$": {}}}),
    "huge numbers": of_json_schema({"type": "integer", "maximum": 10**300}),
    "a million items": of_json_schema({"type": "array", "minItems": 10**6}),
    "formats": of_json_schema({"type": "string", "format": "uri"}),
    "unknown formats": of_json_schema({"properties": {"a": {"format": "path"}}}),
    "a large object": of_json_schema({"const": {f"k{i}": list(range(9)) for i in range(300)}}),
}


@pytest.mark.parametrize("grammar", SLOW.values(), ids=SLOW)
async def test_what_would_be_slow_elsewhere_is_answered_before_long(trial, grammar):
    await trial.check(of_regex("a+"), None)  # the child is there
    began_s = time.monotonic()
    await trial.check(grammar, None)
    assert time.monotonic() - began_s < WALL_S


async def test_a_good_grammar_is_not_refused_because_the_machine_is_busy(trial):
    """Its process is stopped for longer than it may work, as if others had the processors."""
    await trial.check(of_regex("a+"), None)  # the child is there
    child = psutil.Process(trial._process.pid)
    was_stopped = False
    for number in range(100):
        grammar = of_json_schema(object_of(500 + number))
        answer = asyncio.create_task(trial.check(grammar, None))
        while not answer.done() and not was_stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in child.children():
                    process.suspend()
                    await asyncio.sleep(2 * CPU_S)
                    process.resume()
                    was_stopped = True
            await asyncio.sleep(0.001)
        await answer
        if was_stopped:
            return
    raise AssertionError("every trial was over before it could be stopped")


async def test_a_recursive_schema_is_no_problem(trial):
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    await trial.check(of_json_schema(tree), None)


async def test_a_child_that_was_killed_is_started_again(trial):
    await trial.check(of_regex("a"), None)
    os.kill(trial._process.pid, signal.SIGKILL)
    await trial.check(of_regex("b"), None)


async def test_what_was_tried_is_not_tried_again(trial):
    await trial.check(of_regex("a"), None)
    await trial.close()
    await trial.check(of_regex("a"), None)
    assert trial._process is None


async def test_gbnf_comes_back_as_what_an_engine_takes(trial):
    grammar = of_gbnf_or_lark('root ::= "\\u0041" item\nitem ::= [bc]+')
    converted = await trial.check(grammar, None)
    [part] = json.loads(converted)["grammars"]
    assert part["lark_grammar"].count("start:") == 1
    assert await trial.check(grammar, None) == converted, "from memory too"
    assert await trial.check(of_regex("a"), None) == of_regex("a")


async def test_an_answer_longer_than_a_pipe_holds_arrives_beside_others(trial):
    words = " | ".join(f'"{"word" * 50}{i}"' for i in range(350))
    long, short = of_gbnf_or_lark(f"root ::= {words}"), [of_regex(f"b{{{i}}}") for i in range(1, 5)]
    converted, *others = await asyncio.gather(
        trial.check(long, None), *(trial.check(grammar, None) for grammar in short)
    )
    assert len(converted) > 1 << 16
    assert others == short


def test_a_child_that_died_while_nobody_asked_is_started_again(model_files, text):
    async def die_between_grammars():
        trial = GrammarTrial(model_files, 2048, text.tokenizer.eos_ids)
        await trial.check(of_regex("a"), None)
        gone, reading = trial._process, trial._reading
        assert gone is not None
        assert reading is not None
        gone.kill()
        await gone.wait()
        await reading  # its end of the pipes was noticed
        await trial.check(of_regex("b"), None)
        assert trial._process is not gone
        await trial.close()

    # a worker's loop, on which to write to a child that is gone raises
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(die_between_grammars())


async def test_the_first_grammars_share_one_child_and_wait_for_its_vocabulary(trial, monkeypatch):
    started = []
    start = trial._start_child

    async def slowly():
        started.append(1)
        await asyncio.sleep(1.2)
        return await start()

    monkeypatch.setattr(trial, "_start_child", slowly)
    monkeypatch.setattr("workers.grammar_trial.ANSWER_S", 1.0)  # of the trial, not of the start
    began = set(psutil.Process().children())
    await asyncio.gather(*(trial.check(of_regex(f"c{{{i}}}"), None) for i in range(1, 5)))
    assert len(started) == 1
    assert {child.pid for child in set(psutil.Process().children()) - began} == {trial._process.pid}


async def test_a_child_that_does_not_start_is_an_error_of_ours(trial, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not answer"):
        await trial.check(of_regex("a"), None)
    monkeypatch.undo()
    await trial.check(of_regex("a"), None)
