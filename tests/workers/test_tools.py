"""Tool calls and reasoning in a job's log: heard in the tokens, the same in every attempt."""

from typing import Any

import msgspec
import pytest

from engine.errors import InvalidInput
from engine.text.chat_template import ChatTemplate
from engine.text.speech import Call
from tests.workers.test_job_run import Table
from tests.workers.test_prepare import INFO, chat
from tests.workers.wire import check_log, make_job
from workers.contract import CallDelta, Delta, Done, Tokens, decode_event, encode
from workers.prepare import prepare
from workers.tool_messages import with_tools

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
HERMES = PLAIN + "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>{% endif %}"
THINKER = PLAIN + "{# </think> #}{% if add_generation_prompt %}<think>\n{% endif %}"
WIDE = msgspec.structs.replace(INFO, context_length=512)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>'


def speaking(text, template):
    return text._replace(chat_template=ChatTemplate(template, {}))


def table_of(text, template, said, *, past=(), attempt=1, **fields):
    """A chat whose answer is `said`, one token a step, from behind what is in the past."""
    fields = {"tools": [TOOL], "tells_reasoning": True, "max_tokens": None} | fields
    table = Table(speaking(text, template), chat(**fields), past=past, attempt=attempt, info=WIDE)
    ids = text.tokenizer.encode(said, add_special_tokens=False)
    rest = ids[sum(len(d.token_ids) for e in past if isinstance(e, Tokens) for d in e.deltas) :]
    for i, token in enumerate(rest):
        table.step(c0=([token], "stop" if i == len(rest) - 1 else None))
    return table


def heard(table):
    deltas = [d for e in table.events if isinstance(e, Tokens) for d in e.deltas]
    calls = [call for delta in deltas for call in delta.calls or ()]
    return (
        "".join(d.text for d in deltas),
        "".join(d.reasoning for d in deltas),
        [(c.index, c.id, c.name) for c in calls if c.id],
        ["".join(c.arguments for c in calls if c.index == i) for i in {c.index for c in calls}],
        deltas[-1].finish,
    )


async def test_a_call_ends_an_answer_with_its_own_reason(text):
    table = table_of(text, HERMES, "Let me see. " + CALL)
    content, reasoning, [(index, call_id, name)], arguments, finish = heard(table)
    assert (content, reasoning, index, name) == ("Let me see.", "", 0, "add")
    assert arguments == ['{"x": 1}']
    assert finish == "tool_calls"
    assert call_id.startswith("call_")
    assert isinstance(table.events[-1], Done)
    check_log(table.events)


@pytest.mark.parametrize(
    ("stop", "arguments", "finish"),
    [("1}", '{"x": ', "stop"), ("</tool_call>", '{"x": 1}', "tool_calls")],
    ids=["within a call", "behind it"],
)
async def test_a_call_that_a_stop_string_cuts_is_no_call_to_make(text, stop, arguments, finish):
    found = heard(table_of(text, HERMES, CALL, stop=(stop,)))
    assert found[3:] == ([arguments], finish)


async def test_an_answer_without_calls_stops_as_ever(text):
    content, _, calls, _, finish = heard(table_of(text, HERMES, "No tool is needed."))
    assert (content, calls, finish) == ("No tool is needed.", [], "stop")


async def test_without_tools_a_call_is_text(text):
    content, _, calls, _, finish = heard(table_of(text, HERMES, CALL, tools=[]))
    assert (content, calls, finish) == (CALL, [], "stop")


async def test_one_call_at_most_if_that_is_asked(text):
    _, _, calls, arguments, _ = heard(table_of(text, HERMES, CALL + CALL, max_calls=1))
    assert len(calls) == len(arguments) == 1
    assert len(heard(table_of(text, HERMES, CALL + CALL))[2]) == 2


async def test_a_later_attempt_goes_on_within_a_call_under_the_same_id(text):
    whole = table_of(text, HERMES, "So. " + CALL)
    for cut in range(2, len(whole.events) - 2):
        table = table_of(text, HERMES, "So. " + CALL, past=whole.events[:cut], attempt=2)
        assert heard(table) == heard(whole)


def test_choices_and_jobs_have_calls_of_their_own(text):
    (plan,) = prepare(chat(tools=[TOOL]), speaking(text, HERMES), WIDE)
    assert plan.hearing is not None
    calls = [Call(0, "add", ""), Call(1, "add", "")]
    places = [("j", 0), ("j", 1), ("k", 0)]
    ids = [call.id for place in places for call in plan.hearing.deltas(*place, calls)]
    assert len(set(ids)) == 6


async def test_reasoning_that_the_prompt_began_is_told_apart(text):
    said = "Two and two.</think>Four."
    assert heard(table_of(text, THINKER, said))[:2] == ("Four.", "Two and two.")
    assert heard(table_of(text, THINKER, said, tells_reasoning=False))[:2] == (said, "")


async def test_mistral_s_ids_are_nine_letters(text):
    table = table_of(text, PLAIN + "{# [TOOL_CALLS] tools #}", '[TOOL_CALLS]add[ARGS]{"x": 2}')
    [(_, call_id, _)] = heard(table)[2]
    assert len(call_id) == 9
    assert call_id.isalnum()


def test_the_template_is_shown_the_tools(text):
    (plan,) = prepare(chat(tools=[TOOL]), speaking(text, HERMES), WIDE)
    assert '"name": "add"' in text.tokenizer.decode(plan.prompt_ids)


def test_a_template_that_cannot_show_tools_gets_a_system_message():
    template = ChatTemplate(PLAIN, {})
    first, second = with_tools([{"role": "user", "content": "hi"}], [TOOL], template)
    assert first["role"] == "system"
    assert '"name": "add"' in first["content"]
    [merged, _] = with_tools([{"role": "system", "content": "Be brief."}, second], [TOOL], template)
    assert merged["content"].startswith("Be brief.\n\nYou can call")
    assert with_tools([second], [], template) == [second]


def test_earlier_calls_and_results_are_as_templates_expect_them():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    broken = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "oops"}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [call, broken]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "tool", "content": "?", "tool_call_id": "unknown"},
    ]
    assistant, known, unknown = with_tools(messages, [TOOL], ChatTemplate(HERMES, {}))
    functions = [c["function"]["arguments"] for c in assistant["tool_calls"]]
    assert functions == [{"x": 1}, "oops"]
    assert known["name"] == "add"
    assert "name" not in unknown
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'


def test_arguments_too_deep_for_a_reader_stay_text():
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": deep}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    (fitted,) = with_tools(messages, [], ChatTemplate("{{ tools }}", {}))
    assert fitted["tool_calls"][0]["function"]["arguments"] == deep


def test_a_delta_of_a_call_crosses_the_wire():
    event = Tokens(1, (Delta(0, (1,), "", calls=(CallDelta(0, "c", "add", "{"),)),))
    assert decode_event(encode(event)) == event


def test_a_completion_hears_nothing(text):
    (plan,) = prepare(make_job(), speaking(text, HERMES), INFO)
    assert plan.hearing is None


def test_a_template_without_marks_hears_nothing_unless_there_are_tools(text):
    (plan,) = prepare(chat(tells_reasoning=True), speaking(text, PLAIN), INFO)
    assert plan.hearing is None
    with pytest.raises(InvalidInput):
        prepare(chat(tools=[TOOL]), speaking(text, "{{ raise_exception('no') }}"), INFO)
