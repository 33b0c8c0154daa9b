"""An Anthropic request becomes a job. Knows neither how it is run nor how it is shown."""

import time

import msgspec

from api.anthropic.conversation import continues_message, wire_messages
from api.anthropic.view import HIDES_THINKING
from api.generation import new_id
from api.schema.anthropic import CountRequest, MessagesRequest
from workers import contract

_NO_SAMPLING = contract.Sampling(seed=0)


def messages_job(
    request: MessagesRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """The job that answers a conversation. Raises ApiError."""
    return msgspec.structs.replace(
        prompt_job(request, card, home, request_id),
        sampling=request.sampling(),
        stream=bool(request.stream),
        echo={HIDES_THINKING: True} if request.hides_thinking else {},
        metadata=request.wire_metadata(),
    )


def prompt_job(
    request: CountRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """A job whose prompt is the conversation; nothing is said of the answer. Raises ApiError."""
    request.check()
    wanted = request.wanted_tools()
    is_one = wanted.is_one or request.is_one_call
    return contract.Job(
        id=new_id("msg"),
        kind="chat",
        model=card.name,
        home=home,
        created_s=int(time.time()),
        request_id=request_id,
        sampling=_NO_SAMPLING,
        messages=wire_messages(request),
        continues_message=continues_message(request),
        template_kwargs=request.template_kwargs(),
        tools=wanted.tools,
        max_calls=1 if is_one else None,
        must_call=wanted.must_call,
        strict_tools=wanted.strict,
        constraint=request.constraint(),
        tells_reasoning=True,
        is_capped=True,
        endpoint=contract.MESSAGES,
    )
