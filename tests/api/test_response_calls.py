"""Tools, formats and earlier calls of a Responses request, as the job that they make."""

from typing import Any

import pytest

from api.errors import ApiError
from api.response.conversation import echo_of, items_of
from api.response.item import Cut, Item, input_id, output_id, response_id_of
from api.response.job import check_calls, check_size
from api.response.turns import items_in, messages_of
from tests.api.test_response_request import ADD, ID, LOGPROBS, allowed, made, named
from workers.contract import Constraint

TELL: dict[str, Any] = {"type": "function", "name": "tell", "description": "Tells.", "strict": True}
WIRE_ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "name": "point", "schema": SCHEMA, "strict": True}


def call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "add", "arguments": "{}"} | fields


def result(call_id: str, output: Any = "2") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_x", "summary": [], "content": content}


def wire_call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "add", "arguments": "{}"}}


def shown(job: Any) -> list[str]:
    return [tool["function"]["name"] for tool in job.tools]


def test_tools_are_shown_in_the_form_that_templates_know():
    job = made(tools=[ADD, TELL])
    assert job.tools[0] == WIRE_ADD
    assert job.tools[1]["function"]["description"] == "Tells."
    assert (job.must_call, job.max_calls, job.strict_tools) == (False, None, ("tell",))
    assert job.tells_reasoning


@pytest.mark.parametrize(
    ("choice", "names", "must_call", "max_calls"),
    [
        ("auto", ["add", "tell"], False, None),
        ("none", [], False, None),
        ("required", ["add", "tell"], True, None),
        (named("tell"), ["tell"], True, 1),
        (allowed("add"), ["add"], False, None),
        (allowed("add", mode="required"), ["add"], True, None),
    ],
    ids=["auto", "none", "required", "named", "allowed", "allowed and required"],
)
def test_a_tool_choice_is_done_and_said_back(choice, names, must_call, max_calls):
    job = made(tools=[ADD, TELL], tool_choice=choice)
    assert (shown(job), job.must_call, job.max_calls) == (names, must_call, max_calls)
    echo = echo_of(job)
    assert echo.tool_choice == choice
    assert [tool["name"] for tool in echo.tools] == ["add", "tell"], "also those not shown"
    assert echo.tools[0] == {**ADD, "description": None, "strict": False}


def test_one_call_at_a_time_can_be_asked_for():
    assert made(tools=[ADD], parallel_tool_calls=False).max_calls == 1
    assert made(tools=[ADD], parallel_tool_calls=True).max_calls is None


def test_a_format_is_a_constraint_and_its_schema_is_kept_once():
    job = made(text={"format": FORMAT})
    assert job.constraint == Constraint("json_schema", SCHEMA, "text.format.schema")
    assert echo_of(job).text_format == {"type": "json_schema", "name": "point", "strict": True}
    free = made(text={"format": {"type": "json_object"}})
    assert free.constraint == Constraint("json_object", param="text.format")
    assert made(text={"format": {"type": "text"}}).constraint is None
    grammar = made(grammar={"type": "regex", "value": "a+"}).constraint
    assert grammar == Constraint("regex", "a+", "grammar")


def test_logprobs_are_told_if_they_are_included():
    assert made(include=[LOGPROBS]).sampling.logprobs == 0
    assert made(include=[LOGPROBS], top_logprobs=5).sampling.logprobs == 5
    assert made(top_logprobs=0).sampling.logprobs is None


def test_no_effort_is_no_thinking_unless_it_is_asked_for():
    effort: dict[str, Any] = {"reasoning": {"effort": "none"}}
    assert made(**effort).template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}
    assert made(enable_thinking=True, **effort).template_kwargs["enable_thinking"] is True


def test_thoughts_words_and_calls_of_a_turn_are_one_message():
    job = made(
        input=[
            {"role": "user", "content": "1 + 1?"},
            thought("Hm."),
            {"role": "assistant", "content": "Wait."},
            call("a"),
            call("b"),
            result("a"),
            result("b", [{"type": "input_text", "text": "3"}, {"type": "input_text", "text": "4"}]),
            call("c"),
            result("c"),
            {"role": "assistant", "content": "Two."},
            {"role": "assistant", "content": "I think."},
        ]
    )
    assert job.messages == [
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "Hm.",
            "tool_calls": [wire_call("a"), wire_call("b")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "2"},
        {"role": "tool", "tool_call_id": "b", "content": "3\n4"},
        {"role": "assistant", "content": "", "tool_calls": [wire_call("c")]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
        {"role": "assistant", "content": "Two."},
        {"role": "assistant", "content": "I think."},
    ]
    kinds = [item.kind for item in items_of(job)]
    assert kinds[:4] == ["message", "reasoning", "message", "function_call"]
    assert items_of(job)[6].parts == ("3", "4")
    assert [item.id for item in items_of(job)][1:5] == [
        input_id(ID, 1, "reasoning"),
        input_id(ID, 2),
        input_id(ID, 3, "function_call"),
        input_id(ID, 4, "function_call"),
    ]


ORDERS = [
    "rmcco",
    "rco",
    "mm",
    "rm rm",
    "crcoo",
    "mcomco",
    "rr",
    "umrcuo",
]
MADE = {
    "u": Item("u", "user", ("a", "b")),
    "r": Item("r", "assistant", ("Hm.", "So."), "completed", "reasoning"),
    "m": Item("m", "assistant", ("x\n", "y")),
    "c": Item("c", "assistant", ("{}",), "incomplete", "function_call", "call", "add"),
    "o": Item("o", "tool", ("1", ""), "completed", "function_call_output", "call"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_messages_can_be_cut_into_the_items_that_they_were_made_of(order):
    items = [MADE[kind] for kind in order.replace(" ", "")]
    assert items_in(messages_of(items), list(map(Cut.of, items))) == items


def test_a_summary_is_read_where_the_thoughts_are_not_there():
    summary = [{"type": "summary_text", "text": "It adds."}]
    hidden = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    user = {"role": "user", "content": "go on"}
    job = made(input=[{**hidden, "summary": summary}, {"role": "assistant", "content": "2"}, user])
    assert (job.messages or [])[0]["reasoning_content"] == "It adds."
    assert [m["role"] for m in made(input=[hidden, user]).messages or []] == ["user"]


@pytest.mark.parametrize(
    ("kinds", "what"),
    [
        ("c", "No tool output found for function call call."),
        ("o", "No tool call found for function call output with call_id call."),
        ("coo", "No tool call found"),
        ("oc", "No tool call found"),
    ],
)
def test_a_call_and_its_result_need_each_other(kinds, what):
    check_calls([MADE[kind] for kind in "uco"])
    with pytest.raises(ApiError, match=what) as caught:
        check_calls([MADE[kind] for kind in kinds])
    assert (caught.value.code, caught.value.param) == ("invalid_value", "input")


def test_the_ids_of_all_kinds_name_their_response():
    for kind in ("message", "reasoning", "function_call", "function_call_output"):
        assert response_id_of(input_id(ID, 3, kind)) == ID
        assert response_id_of(output_id(ID, 2, kind)) == ID
        assert output_id(ID, 2, kind) != input_id(ID, 2, kind)
    assert response_id_of(output_id(ID, 1) + "x") is None


def test_names_and_ids_weigh_too():
    heavy = Item("c", "assistant", ("{}",), kind="function_call", call_id="c" * 50, name="n" * 50)
    with pytest.raises(ApiError):
        check_size([heavy], 100)
