"""Stop strings are found across pushes, at the first place, with nothing of them shown."""

import itertools
import time

import pytest
from hypothesis import given, settings, strategies as st

from engine.errors import InvalidInput
from engine.text.stop_strings import StopStrings

SMALL = st.text("ab", min_size=1, max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first, the longest where several are."""
    for end in range(1, len(text) + 1):
        if lengths := [len(s) for s in stops if text[:end].endswith(s)]:
            return text[: end - max(lengths)], True
    return text, False


@settings(max_examples=400, deadline=None)
@given(st.text("ab", max_size=30), st.lists(SMALL, max_size=3), st.data())
def test_the_text_is_cut_before_the_first_stop_string_however_it_is_pushed(text, stops, data):
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    watcher, shown, is_matched = StopStrings(stops), "", False
    for start, end in itertools.pairwise([0, *places, len(text)]):
        safe, is_matched = watcher.push(text[start:end])
        shown += safe
    assert (shown + watcher.flush(), is_matched) == naive(text, stops)


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=30), st.lists(SMALL, min_size=1, max_size=3), st.data())
def test_one_that_is_shown_ends_the_text(text, stops, data):
    place = data.draw(st.integers(0, len(text)))
    watcher = StopStrings(stops, is_shown=True)
    shown = "".join(watcher.push(part)[0] for part in (text[:place], text[place:]))
    before, is_matched = naive(text, stops)
    assert shown + watcher.flush() == before + (watcher.matched or "")
    assert (watcher.matched is not None) == is_matched


@settings(max_examples=300, deadline=None)
@given(st.text("ab", max_size=20), st.lists(SMALL, min_size=1, max_size=3))
def test_only_the_longest_possible_beginning_of_a_stop_string_is_held_back(text, stops):
    watcher, shown = StopStrings(stops), ""
    for position, char in enumerate(text, start=1):
        safe, is_matched = watcher.push(char)
        shown += safe
        if is_matched:
            return
        seen = text[:position]
        ends = [n for s in stops for n in range(1, len(s)) if seen.endswith(s[:n])]
        assert shown == seen[: position - max(ends, default=0)]


def test_a_stop_string_that_overlaps_a_false_start_is_found():
    assert StopStrings(["aab"]).push("xaaab") == ("xa", True)
    assert StopStrings(["abcabd"]).push("abcabcabd") == ("abc", True)


def test_nothing_is_shown_after_a_match():
    watcher = StopStrings(["END"])
    assert watcher.push("oneENDtwo") == ("one", True)
    assert watcher.push("three") == ("", True)
    assert watcher.flush() == ""


def test_without_stop_strings_all_text_passes():
    watcher = StopStrings([])
    assert watcher.push("text") == ("text", False)
    assert watcher.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(InvalidInput) as caught:
        StopStrings(["a", ""])
    assert caught.value.param == "stop"


def test_the_cost_of_a_push_does_not_grow_with_the_text():
    watcher = StopStrings(["a" * 50 + "b", "never", "\n\n\n"])
    times = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(2000):
            watcher.push("aaaa")
        times.append(time.process_time() - start)
    assert times[2] < 5 * times[0]


def test_a_long_stop_string_costs_nothing_before_it_is_met():
    stop = "ab" * 10_000_000
    start = time.process_time()
    assert StopStrings([stop]).push("abaxab") == ("abax", False)
    assert time.process_time() - start < 0.5
