"""Engines of tests/bench/cpu.py in turns: what becomes of a slow one, and of one that dies."""

import sys

import pytest

from tests.bench.cpu_engines import Crashed, Process, run_in_turns

STEADY = """
import json, sys, time
print(json.dumps("imported"), flush=True)
print(json.dumps({"cache_bytes": 0}), flush=True)
for number, line in enumerate(sys.stdin):
    time.sleep(float(sys.argv[2]))
    if number > int(sys.argv[1]):
        sys.exit(3)
    print(json.dumps([0.5, 0.25, 10]), flush=True)
"""


def start(num_answers, delay_s=0.0):
    """An engine that dies after so many answers, the one to the first prompt not counted."""
    return Process([sys.executable, "-c", STEADY, str(num_answers), str(delay_s)], 1)


def test_figures_are_tokens_a_second_and_milliseconds_a_token():
    engines = {"one": start(9), "other": start(9)}
    figures, crashes = run_in_turns(engines, "decode 1", repeats=3, seconds=60)
    assert figures == {"one": (20.0, 25.0), "other": (20.0, 25.0)}
    assert not crashes
    for engine in engines.values():
        engine.end()


def test_an_engine_that_dies_is_named_and_keeps_what_it_had_and_the_other_goes_on():
    engines = {"one": start(9), "frail": start(1)}
    figures, crashes = run_in_turns(engines, "decode 1", repeats=3, seconds=60)
    assert set(figures) == {"one", "frail"}
    assert str(crashes["frail"]) == "its process ended with 3"
    assert engines["one"].ask("decode 1")[2] == 10
    engines["one"].end()


def test_an_engine_that_is_slow_has_fewer_turns():
    slow = start(1, delay_s=0.2)
    _, crashes = run_in_turns({"slow": slow}, "decode 1", repeats=3, seconds=0.1)
    assert not crashes  # a second turn would have been its end
    slow.end()


def test_an_engine_that_cannot_load_is_named():
    with pytest.raises(Crashed, match="ended with 7"):
        Process([sys.executable, "-c", "raise SystemExit(7)"], 1)
