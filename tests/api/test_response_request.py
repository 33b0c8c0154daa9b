"""What a Responses request asks for, and what is refused, before any Redis."""

import json
from typing import Any

import msgspec
import pytest

from api.errors import ApiError
from api.response.conversation import echo_of, items_of
from api.response.item import Item, input_id, output_id, response_id_of
from api.response.job import check_size, input_items, response_job
from api.schema.decode import decode_body
from api.schema.response_input import Message, Reference
from api.schema.responses import ResponsesRequest
from workers.contract import Job, ModelCard

CARD = ModelCard(name="tiny", queue="q", context_length=64, vocab_size=100, created_s=1)
DECODER = msgspec.json.Decoder(ResponsesRequest)
ID = "resp_" + "ab" * 16


def request(**fields: Any) -> ResponsesRequest:
    body = json.dumps({"input": "hi"} | fields).encode()
    decoded = decode_body(DECODER, body)
    decoded.check()
    return decoded


def made(*, before: tuple[Item, ...] = (), **fields: Any) -> Job:
    asked = request(**fields)
    items = [*before, *input_items(ID, asked.inputs(), {item.id: item for item in before})]
    return response_job(
        asked, ID, items, CARD, home="h", request_id="r", tenant="t", store_ttl_s=77
    )


def test_a_string_is_one_message_of_the_user():
    job = made()
    assert job.messages == [{"role": "user", "content": "hi"}]
    assert (job.id, job.kind, job.endpoint, job.tenant) == (ID, "chat", "/v1/responses", "t")
    assert items_of(job) == [Item(input_id(ID, 0), "user", ("hi",))]


def test_items_may_be_easy_or_full():
    job = made(
        input=[
            {"role": "developer", "content": "be brief"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            {
                "type": "message",
                "id": "msg_of_another_server",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "c", "annotations": []}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ]
    )
    assert job.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "no"},
    ]
    assert [item.role for item in items_of(job)] == ["developer", "user", "assistant", "assistant"]
    assert items_of(job)[1].parts == ("a", "b")


def test_instructions_come_first_and_are_no_item():
    before = (Item("msg_1", "user", ("earlier",)),)
    job = made(before=before, instructions="rhyme")
    assert [m["content"] for m in job.messages or []] == ["rhyme", "earlier", "hi"]
    assert [item.text for item in items_of(job)] == ["earlier", "hi"]


@pytest.mark.parametrize(
    "part", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}], ids=["typed", "bare"]
)
def test_a_reference_stands_for_an_earlier_item(part):
    (reference,) = request(input=[part]).inputs()
    assert isinstance(reference, Reference)
    earlier = Item("msg_1", "user", ("earlier",))
    assert input_items(ID, [reference], {"msg_1": earlier}) == [earlier]
    with pytest.raises(ApiError) as caught:
        input_items(ID, [reference], {})
    assert (caught.value.code, caught.value.param) == ("item_not_found", "input[0].id")


def test_the_ids_of_items_name_their_response():
    assert response_id_of(output_id(ID)) == ID
    assert response_id_of(input_id(ID, 12)) == ID
    for strange in ("msg_1", "", ID, output_id(ID) + "_x", "msg_" + "g" * 32):
        assert response_id_of(strange) is None


def test_sampling_extras_and_limits_reach_the_job():
    job = made(
        max_output_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        seed=7,
        stop=["x"],
        reasoning={"effort": "high"},
        enable_thinking=False,
    )
    sampling = job.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (5, 0.5, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.seed, sampling.stop) == (3, 0.1, 7, ("x",))
    assert job.template_kwargs == {"reasoning_effort": "high", "enable_thinking": False}


def test_what_is_stored_lives_longer_and_what_is_in_the_background_runs_on():
    assert (made().result_ttl_s, made().is_detached) == (77, False)
    assert made(store=False).result_ttl_s == 0
    assert made(background=True).is_detached


def test_an_answer_may_end_where_the_context_does():
    assert made(max_output_tokens=10_000_000).is_capped


def test_the_echo_says_what_was_asked():
    echo = echo_of(
        made(
            user="u",
            safety_identifier="s",
            prompt_cache_key="k",
            tool_choice="none",
            parallel_tool_calls=False,
            max_tool_calls=3,
            reasoning={"effort": "low", "summary": "auto"},
            metadata={"x": "y"},
            tools=[],
            truncation="disabled",
            text={"format": {"type": "text"}, "verbosity": "medium"},
            include=["reasoning.encrypted_content"],
            service_tier="auto",
        )
    )
    assert (echo.user, echo.safety_identifier, echo.prompt_cache_key) == ("u", "s", "k")
    assert (echo.tool_choice, echo.parallel_tool_calls, echo.max_tool_calls) == ("none", False, 3)
    assert (echo.reasoning_effort, echo.reasoning_summary) == ("low", "auto")


TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
REFUSED, CONTENT = "unsupported_parameter", "unsupported_content"

LOGPROBS = "message.output_text.logprobs"
ADD: dict[str, Any] = {"type": "function", "name": "add", "parameters": {"type": "object"}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": [named(name) for name in names]}


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


def part(**fields: Any) -> dict[str, Any]:
    return item(role="user", content=[fields])


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "invalid_type", "input"),
    ({"input": []}, VALUE, "input"),
    ({"input": 5}, TYPE, "input"),
    ({"input": ["hi"]}, TYPE, "input[0]"),
    (item(role="user"), MISSING, "input[0].content"),
    (item(content="x"), MISSING, "input[0].role"),
    (item(role="tool", content="x"), VALUE, "input[0].role"),
    (item(type="function_call", name="f"), MISSING, "input[0].call_id"),
    (item(type="function_call", call_id="1", arguments="{}"), MISSING, "input[0].name"),
    (item(type="function_call", call_id="1", name="f"), MISSING, "input[0].arguments"),
    (item(type="function_call_output", output="x"), MISSING, "input[0].call_id"),
    (item(type="function_call_output", call_id="1"), MISSING, "input[0].output"),
    (
        item(type="function_call_output", call_id="1", output=[{"type": "input_image"}]),
        CONTENT,
        "input[0].output[0]",
    ),
    (
        item(type="reasoning", content=[{"type": "reasoning_text"}]),
        MISSING,
        "input[0].content[0].text",
    ),
    (item(type="reasoning", id="rs_1", summary=[], encrypted_content="x"), VALUE, "input"),
    (item(type="computer_call"), CONTENT, "input[0]"),
    (item(type="item_reference"), MISSING, "input[0].id"),
    (part(type="input_image", image_url="data:"), CONTENT, "input[0].content[0]"),
    (part(type="input_text"), MISSING, "input[0].content[0].text"),
    (part(type="refusal", text="x"), MISSING, "input[0].content[0].refusal"),
    ({"background": True, "store": False}, VALUE, "store"),
    ({"truncation": "auto"}, REFUSED, "truncation"),
    ({"truncation": "some"}, VALUE, "truncation"),
    ({"text": {"format": {"type": "xml"}}}, VALUE, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, MISSING, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, MISSING, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "a b"}}}, VALUE, "text.format.name"),
    ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, VALUE, "guided_regex"),
    ({"response_format": {"type": "json_object"}}, REFUSED, "response_format"),
    ({"text": {"verbosity": "low"}}, REFUSED, "text.verbosity"),
    ({"tools": [{"type": "function"}]}, MISSING, "tools[0].name"),
    ({"tools": [{"type": "web_search"}]}, REFUSED, "tools[0].type"),
    ({"tools": [ADD, ADD]}, VALUE, "tools[1].name"),
    ({"tools": [ADD | {"name": "a b"}]}, VALUE, "tools[0].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, MISSING, "tools[0].name"),
    ({"tool_choice": "required"}, VALUE, "tool_choice"),
    ({"tool_choice": "any"}, VALUE, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}, "tools": [ADD]}, VALUE, "tool_choice.type"),
    ({"tool_choice": named("f"), "tools": [ADD]}, VALUE, "tool_choice"),
    ({"tool_choice": {"type": "function"}, "tools": [ADD]}, MISSING, "tool_choice.name"),
    ({"tool_choice": allowed("f"), "tools": [ADD]}, VALUE, "tool_choice.tools[0]"),
    (
        {"tool_choice": "required", "tools": [ADD], "text": {"format": {"type": "json_object"}}},
        VALUE,
        "text.format",
    ),
    ({"top_logprobs": 2}, VALUE, "top_logprobs"),
    ({"top_logprobs": 21, "include": [LOGPROBS]}, VALUE, "top_logprobs"),
    ({"conversation": "conv_1"}, REFUSED, "conversation"),
    ({"prompt": {"id": "p"}}, REFUSED, "prompt"),
    ({"n": 2}, REFUSED, "n"),
    ({"max_tokens": 2}, REFUSED, "max_tokens"),
    ({"include": ["everything"]}, VALUE, "include[0]"),
    ({"max_output_tokens": 0}, VALUE, "max_output_tokens"),
    ({"temperature": 3}, VALUE, "temperature"),
    ({"service_tier": "best"}, VALUE, "service_tier"),
    ({"metadata": {str(i): "" for i in range(17)}}, VALUE, "metadata"),
    ({"metadata": {"k" * 65: ""}}, VALUE, "metadata"),
    ({"metadata": {"k": "v" * 513}}, VALUE, "metadata"),
    ({"metadata": {"k": 1}}, TYPE, "metadata"),
    ({"chat_template_kwargs": {"messages": 1}}, VALUE, "chat_template_kwargs"),
    ({"stop": ""}, VALUE, "stop"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused_with_its_param(fields, code, param):
    with pytest.raises(ApiError) as caught:
        made(**fields)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_metadata_may_be_as_large_as_openais():
    metadata = {f"{i:064d}": "v" * 512 for i in range(16)}
    assert made(metadata=metadata).metadata == metadata


def test_a_conversation_is_bounded_by_text_and_by_items():
    check_size([Item("a", "user", ("x" * 30,))], 100)
    for items in ([Item("a", "user", ("x" * 90,))], [Item("a", "user", ("",))] * 2):
        with pytest.raises(ApiError) as caught:
            check_size(items, 100)
        assert caught.value.code == "context_length_exceeded"


def test_messages_are_plain():
    assert request().inputs() == [Message("user", ("hi",))]
