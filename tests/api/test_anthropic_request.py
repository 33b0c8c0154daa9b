"""An Anthropic body as a job: what the chat template sees, and what is refused."""

import msgspec
import pytest

from api.anthropic.job import messages_job
from api.anthropic.signature import packed
from api.errors import ApiError
from api.schema.anthropic import MessagesRequest
from workers.contract import Constraint, ModelCard

CARD = ModelCard(name="m", queue="q:m", context_length=64, vocab_size=100, created_s=0)
HI = {"role": "user", "content": "hi"}
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


def job(*turns, **fields):
    body = {"model": "m", "max_tokens": 5, "messages": turns or [HI], **fields}
    return messages_job(msgspec.convert(body, MessagesRequest), CARD, "A", "r")


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def text(words):
    return {"type": "text", "text": words}


def result(**fields):
    return {"type": "tool_result", "tool_use_id": "c0", **fields}


USE = {"type": "tool_use", "id": "c0", "name": "add", "input": {"x": 1}}
WIRE_CALL = {
    "id": "c0",
    "type": "function",
    "function": {"name": "add", "arguments": '{"x":1}'},
}


def test_system_comes_first_as_text_or_as_blocks():
    system = {"role": "system", "content": "be\nbrief"}
    assert job(system="be\nbrief").messages == [system, HI]
    assert job(system=[text("be"), text("brief")]).messages == [system, HI]


def test_turns_of_one_role_in_a_row_are_one_turn():
    assert job(HI, user(text("a"), text("b"))).messages == [{"role": "user", "content": "hi\na\nb"}]


def test_a_call_and_its_result_are_those_of_openai():
    turns = job(
        HI,
        assistant({"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("Wait."), USE),
        user(result(content=[text("2")]), text("and now?")),
        tools=[TOOL],
    ).messages
    assert turns == [
        HI,
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "Hm.",
            "tool_calls": [WIRE_CALL],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "2"},
        {"role": "user", "content": "and now?"},
    ]


def test_two_results_stay_two_messages_and_an_error_says_so():
    uses = assistant(USE, {**USE, "id": "c1"})
    results = user(result(content="a", is_error=True), result(tool_use_id="c1"))
    turns = job(HI, uses, results).messages
    assert [turn["content"] for turn in turns[2:]] == ["Error: a", ""]


def test_a_last_turn_of_the_assistant_is_continued():
    assert job(HI, assistant(text("The best is"))).continues_message
    assert not job().continues_message


@pytest.mark.parametrize(
    "turns",
    [
        [assistant(USE)],
        [assistant(USE), HI],
        [user(result())],
        [assistant(USE), user(result(), result())],
        [assistant(USE), user(result(tool_use_id="c1"))],
    ],
)
def test_a_call_and_its_result_need_each_other(turns):
    with pytest.raises(ApiError, match="tool_result") as caught:
        job(HI, *turns)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")


@pytest.mark.parametrize("thought", ["Hm.", "", "\U0001f600 \u2028"])
def test_a_thought_that_was_not_shown_comes_back_in_its_signature(thought):
    block = {"type": "thinking", "thinking": "", "signature": packed(thought)}
    turn = job(HI, assistant(block, text("Two.")), HI).messages[1]
    assert turn.get("reasoning_content", "") == thought


@pytest.mark.parametrize("signature", ["", "msg-1", "EuYBCkQ", "thought:?", "thought:/w=="])
def test_a_signature_of_somebody_else_s_says_nothing(signature):
    block = {"type": "thinking", "thinking": "", "signature": signature}
    assert "reasoning_content" not in job(HI, assistant(block, text("Two.")), HI).messages[1]


def test_thoughts_of_turns_that_become_one_are_kept():
    think = [{"type": "thinking", "thinking": words, "signature": "x"} for words in ("Hm.", "Ah.")]
    made = job(HI, assistant(think[0], text("Wait.")), assistant(think[1], text("Two.")), HI)
    assert made.messages[1] == {
        "role": "assistant",
        "content": "Wait.\nTwo.",
        "reasoning_content": "Hm.\nAh.",
    }


def test_tools_get_openais_form_and_none_hides_them():
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    made = job(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert made.tools == [{"type": "function", "function": function}]
    assert made.max_calls == 1
    assert job(tools=[TOOL], tool_choice={"type": "none"}).tools == []


@pytest.mark.parametrize(
    ("choice", "names", "must_call", "max_calls"),
    [
        ({"type": "any"}, ["add", "tell"], True, None),
        ({"type": "any", "disable_parallel_tool_use": True}, ["add", "tell"], True, 1),
        ({"type": "tool", "name": "tell"}, ["tell"], True, 1),
        ({"type": "auto"}, ["add", "tell"], False, None),
    ],
)
def test_a_tool_can_be_asked_for(choice, names, must_call, max_calls):
    made = job(tools=[TOOL, {**TOOL, "name": "tell", "strict": True}], tool_choice=choice)
    assert [tool["function"]["name"] for tool in made.tools] == names
    assert (made.must_call, made.max_calls) == (must_call, max_calls)
    assert made.strict_tools == ("tell",)


def test_a_format_is_a_constraint_under_its_new_name_and_its_old_one():
    newer, older = job(output_config={"format": FORMAT}), job(output_format=FORMAT)
    schema = FORMAT["schema"]
    assert newer.constraint == Constraint("json_schema", schema, "output_config.format.schema")
    assert older.constraint == Constraint("json_schema", schema, "output_format.schema")


def test_a_system_turn_may_come_in_the_middle():
    turns = [HI, assistant(text("hm")), {"role": "system", "content": [text("now")]}]
    made = job(*turns)
    assert made.messages[-1] == {"role": "system", "content": "now"}
    assert not made.continues_message


def test_sampling_thinking_and_metadata_go_into_the_job():
    made = job(
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u"},
    )
    sampling = made.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.top_k) == (5, ("END",), 3)
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.9)
    assert made.template_kwargs == {"enable_thinking": True}
    for kind in ("disabled", "between_tools"):
        assert job(thinking={"type": kind}).template_kwargs == {"enable_thinking": False}
    effort = job(output_config={"effort": "low"}).template_kwargs
    assert effort == {"reasoning_effort": "low"}
    hidden = job(thinking={"type": "adaptive", "display": "omitted"})
    assert (hidden.echo, made.echo) == ({"hides_thinking": True}, {})
    assert made.metadata == {"user_id": "u"}
    assert job().sampling.seed != job().sampling.seed


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": [user(text("a"), PICTURE)]}, "unsupported_content", "messages[0].content[1]"),
        (
            {"messages": [HI, assistant(USE), user(result(content=[PICTURE]))]},
            "unsupported_content",
            "messages[2].content[0].content[0]",
        ),
        ({"messages": [user(USE)]}, "unsupported_content", "messages[0].content[0]"),
        (
            {"messages": [user({"type": "text"})]},
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        ({"tools": [TOOL, TOOL]}, "invalid_value", "tools[1].name"),
        ({"tools": [{"name": "a"}]}, "missing_required_parameter", "tools[0].input_schema"),
        (
            {"tools": [{"name": "bash", "type": "bash_20250124"}]},
            "unsupported_parameter",
            "tools[0].type",
        ),
        ({"tool_choice": {"type": "any"}}, "invalid_value", "tool_choice"),
        (
            {"tool_choice": {"type": "tool", "name": "a"}, "tools": [TOOL]},
            "invalid_value",
            "tool_choice",
        ),
        (
            {"tool_choice": {"type": "tool"}, "tools": [TOOL]},
            "missing_required_parameter",
            "tool_choice.name",
        ),
        (
            {"tool_choice": {"type": "any"}, "tools": [TOOL], "output_config": {"format": FORMAT}},
            "invalid_value",
            "output_config.format.schema",
        ),
        ({"mcp_servers": [{"url": "x"}]}, "unsupported_parameter", "mcp_servers"),
        ({"compaction": {"type": "x"}}, "unsupported_parameter", "compaction"),
        ({"thread": {"type": "create"}}, "thread_unsupported_request", "thread"),
        (
            {"output_config": {"format": FORMAT}, "output_format": FORMAT},
            "invalid_value",
            "output_format",
        ),
        (
            {"output_format": FORMAT, "messages": [HI, assistant(text("{"))]},
            "invalid_value",
            "messages[1]",
        ),
        ({"top_p": 0}, "invalid_value", "top_p"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(fields, code, param):
    body = {"messages": [HI], **fields}
    with pytest.raises(ApiError) as caught:
        job(*body.pop("messages"), **body)
    assert (caught.value.code, caught.value.param) == (code, param)
