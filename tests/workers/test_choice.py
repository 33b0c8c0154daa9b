"""One answer's text: what is shown when, and that replaying the ids gives the same."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.scripted_engine import plain_ids
from workers.choice import Choice
from workers.contract import Sampling


def choice(text, *stops: str, **asked: Any) -> Choice:
    sampling = Sampling(**{"seed": 1, "stop": stops, **asked})
    return Choice(0, text.tokenizer, sampling, is_continuation=True)


def test_the_texts_of_all_steps_are_the_whole_text(text):
    ids = text.tokenizer.encode("Grüße, 世界! 🎈 done", add_special_tokens=False)
    answer = choice(text)
    shown = [answer.push([id_], "length" if id_ is ids[-1] else None).text for id_ in ids[:-1]]
    shown.append(answer.push(ids[-1:], "length").text)
    assert "".join(shown) == "Grüße, 世界! 🎈 done"
    assert answer.finish == "length"
    assert answer.token_ids == ids


def test_a_stop_string_ends_the_text_before_it_and_drops_later_tokens(text):
    ids = text.tokenizer.encode("one two three four", add_special_tokens=False)
    answer = choice(text, "thr")
    delta = answer.push(ids, None)
    assert (delta.text, delta.finish) == ("one two ", "stop")
    assert len(delta.token_ids) < len(ids)
    assert answer.token_ids == list(delta.token_ids)


def test_a_stop_string_across_steps_is_never_shown(text):
    ids = text.tokenizer.encode("alpha STOP beta", add_special_tokens=False)
    answer, shown = choice(text, "STOP"), ""
    for id_ in ids:
        shown += answer.push([id_], None).text
        if answer.finish is not None:
            break
    assert shown == "alpha "


def test_what_could_have_become_a_stop_string_is_shown_at_the_end(text):
    ids = text.tokenizer.encode("alpha ST", add_special_tokens=False)
    answer = choice(text, "STOP")
    shown = "".join(answer.push([id_], None).text for id_ in ids)
    assert shown == "alpha "
    assert answer.push([], "stop").text == "ST"


def test_an_open_character_is_replaced_at_the_end(text):
    token = next(id_ for id_ in plain_ids_of(text) if text.tokenizer.token_bytes(id_) == b"\xe4")
    answer = choice(text)
    assert answer.push([token], None).text == ""
    assert answer.push([], "length").text == "\ufffd"


def plain_ids_of(text):
    return [i for i in range(text.tokenizer.vocab_size) if i not in text.tokenizer.special_ids]


@pytest.fixture(scope="module")
def vocabulary(model_files):
    return plain_ids(model_files.directory)


@given(data=st.data())
def test_replaying_logged_steps_restores_the_state(text, vocabulary, data):
    steps = data.draw(st.lists(st.lists(st.sampled_from(vocabulary), max_size=3), max_size=12))
    stops = data.draw(st.sampled_from([(), ("e",), ("th", "the"), ("\n",)]))
    at = data.draw(st.integers(0, len(steps)))
    whole = choice(text, *stops)
    deltas = []
    for step in steps:
        if whole.finish is None:
            deltas.append(whole.push(step, None))
    resumed = choice(text, *stops)
    for delta in deltas[:at]:
        resumed.push(delta.token_ids, delta.finish)
    rest = [resumed.push(step, None) for step in steps[at : len(deltas)]]
    assert rest == deltas[at:]


def test_the_stop_string_is_shown_if_that_is_asked(text):
    ids = text.tokenizer.encode("one two three", add_special_tokens=False)
    delta = choice(text, "two", includes_stop=True).push(ids, None)
    assert (delta.text, delta.finish) == ("one two", "stop")


def test_special_tokens_are_shown_if_that_is_asked(text):
    (end_id,) = text.tokenizer.eos_ids
    shown = text.tokenizer.decode([end_id], skip_special_tokens=False)
    assert choice(text).push([end_id], "stop").text == ""
    assert choice(text, shows_special_tokens=True).push([end_id], "stop").text == shown
