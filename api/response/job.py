"""A Responses request and the conversation before it become a job, pure.

Knows no Redis; earlier items come as they are.
"""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from api.errors import ApiError
from api.response.conversation import ENDPOINT, Echo
from api.response.item import Cut, Item, input_id
from api.response.turns import messages_of
from api.schema.response_input import Given, Message
from api.schema.response_tools import echo_choice, echo_tools
from api.schema.responses import ResponsesRequest
from api.tool_results import unmatched
from workers import contract

# What an item weighs beside its text, so that a million empty ones are too many as well.
_ITEM_BYTES = 64


def new_response_id() -> str:
    """The id of a response and of its job."""
    return f"resp_{uuid.uuid4().hex}"


def input_items(response_id: str, inputs: Sequence[Given], known: Mapping[str, Item]) -> list[Item]:
    """The input as items with ids. Raises ApiError for a reference to what is not `known`."""
    return [_item(response_id, i, part, known) for i, part in enumerate(inputs)]


def response_job(
    request: ResponsesRequest,
    response_id: str,
    items: Sequence[Item],
    card: contract.ModelCard,
    *,
    home: str,
    request_id: str,
    tenant: str,
    store_ttl_s: int,
) -> contract.Job:
    """The job that answers `items`, earlier turns first. Raises ApiError."""
    has_instructions = bool(request.instructions)
    instructions = [{"role": "system", "content": request.instructions}] if has_instructions else []
    wanted = request.wanted_tools()
    is_one = wanted.is_one or request.parallel_tool_calls is False
    return contract.Job(
        id=response_id,
        kind="chat",
        model=card.name,
        home=home,
        created_s=int(time.time()),
        request_id=request_id,
        sampling=request.job_sampling(card.vocab_size),
        messages=instructions + messages_of(items),
        template_kwargs=request.template_kwargs(),
        tools=wanted.tools,
        max_calls=1 if is_one else None,
        must_call=wanted.must_call,
        strict_tools=wanted.strict,
        constraint=request.constraint(),
        tells_reasoning=True,
        is_capped=True,
        stream=bool(request.stream),
        tenant=tenant,
        endpoint=ENDPOINT,
        is_detached=bool(request.background),
        result_ttl_s=store_ttl_s if request.is_stored else 0,
        echo=msgspec.to_builtins(_echo(request, items, has_instructions)),
        metadata=request.metadata or {},
    )


def check_size(items: Iterable[Item], max_bytes: int) -> None:
    """Raise ApiError for a conversation that grew beyond what one request may bring."""
    size = sum(len((i.text + i.name + i.call_id).encode()) + _ITEM_BYTES for i in items)
    if size > max_bytes:
        raise ApiError(
            "context_length_exceeded",
            f"The conversation has {size} bytes with its earlier turns; {max_bytes} are allowed.",
            "previous_response_id",
        )


def check_calls(items: Iterable[Item]) -> None:
    """Raise ApiError for a call without its result, and for a result without its call before."""
    calls, results = unmatched(messages_of(items))
    if results:
        what = f"No tool call found for function call output with call_id {results[0][:80]}."
        raise ApiError("invalid_value", what, "input")
    if calls:
        what = f"No tool output found for function call {calls[0][:80]}."
        raise ApiError("invalid_value", what, "input")


def _item(response_id: str, index: int, part: Given, known: Mapping[str, Item]) -> Item:
    if isinstance(part, Message):
        return Item(
            input_id(response_id, index, part.kind),
            part.role,
            part.parts,
            kind=part.kind,
            call_id=part.call_id,
            name=part.name,
        )
    if part.item_id not in known:
        what = f"Item with id '{part.item_id[:80]}' not found."
        raise ApiError("item_not_found", what, part.param)
    return known[part.item_id]


def _echo(request: ResponsesRequest, items: Sequence[Item], has_instructions: bool) -> Echo:
    return Echo(
        items=tuple(map(Cut.of, items)),
        has_instructions=has_instructions,
        previous_response_id=request.previous_response_id,
        is_background=bool(request.background),
        is_stored=request.is_stored,
        max_tool_calls=request.max_tool_calls,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        reasoning_effort=request.effort,
        reasoning_summary=None if request.reasoning is None else request.reasoning.summary,
        safety_identifier=request.safety_identifier,
        text_format={} if request.format is None else request.format.echo(),
        tool_choice=echo_choice(request.tool_choice),
        tools=echo_tools(request.tools or ()),
        user=request.user,
    )
