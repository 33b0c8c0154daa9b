"""A response as a function of job and log: its object, its events, their numbers, any replay."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.response.conversation import ENDPOINT, Echo, items_of
from api.response.item import Cut, Item
from api.response.stream import ResponseFrames
from api.response.turns import messages_of
from api.response.view import ResponseView
from api.shape import answer_of, frames_of
from workers.contract import (
    Delta,
    Done,
    Event,
    Failed,
    Fence,
    Job,
    Retried,
    Sampling,
    Started,
    Tokens,
    Usage,
    decode_job,
    encode,
)

CODE = "0123456789abcdef" * 2
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEMS = [Item("msg_a", "developer", ("be", "brief\n")), Item("msg_b", "user", ("\U0001f600",))]


def job(*, instructions: str | None = None, **echo: Any) -> Job:
    head = [{"role": "system", "content": instructions}] if instructions else []
    fields = Echo(items=tuple(map(Cut.of, ITEMS)), has_instructions=bool(instructions), **echo)
    spec = Job(
        id=f"resp_{CODE}",
        kind="chat",
        model="tiny",
        home="x",
        created_s=5,
        sampling=Sampling(seed=1, max_tokens=9, top_p=0.5),
        messages=head + messages_of(ITEMS),
        endpoint=ENDPOINT,
        echo=msgspec.to_builtins(fields),
        metadata={"a": "b"},
    )
    return decode_job(encode(spec))


def log(finish: str = "stop") -> list[Event]:
    """Two deltas with text; the character in between was open for a step."""
    return [
        Started(0, 3),
        Tokens(1, (Delta(0, (1,), "a\n\u2028"),)),
        Fence(2, "w"),
        Tokens(2, (Delta(0, (2,), ""),)),
        Tokens(3, (Delta(0, (3,), "\U0001f600"), Delta(0, (4,), "", finish))),
        Done(5, Usage(3, 4, 1)),
    ]


FAILED: list[Event] = [*log()[:2], Failed(2, "engine_error", "broken", "x")]
CANCELLED: list[Event] = [*log()[:2], Failed(2, "cancelled", "given up")]
REFUSED: list[Event] = [Failed(0, "context_length_exceeded", "too long")]
LOGS = {
    "completed": log(),
    "incomplete": log("length"),
    "failed": FAILED,
    "cancelled": CANCELLED,
    "refused": REFUSED,
}


def parse(data: bytes) -> list[tuple[str, str | None, Any]]:
    """(event, id, data) of each frame."""
    frames = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        frames.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return frames


def names(data: bytes) -> list[str]:
    return [name.removeprefix("response.") for name, _, _ in parse(data)]


def view(events: list[Event], **echo: Any) -> Any:
    response = answer_of(job(**echo))
    response.add(events)
    return json.loads(msgspec.json.encode(response.response()))


BEGINNING = ["created", "in_progress", "output_item.added", "content_part.added"]
SAID = [*BEGINNING, "output_text.delta", "output_text.delta"]
END = ["output_text.done", "content_part.done", "output_item.done"]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (LOGS["completed"], [*SAID, *END, "completed"]),
        (LOGS["incomplete"], [*SAID, *END, "incomplete"]),
        (LOGS["failed"], [*BEGINNING, "output_text.delta", "failed"]),
        (LOGS["cancelled"], [*BEGINNING, "output_text.delta", "failed"]),
        (LOGS["refused"], ["created", "failed"]),
    ],
    ids=LOGS,
)
def test_the_events_come_in_openais_order_and_are_numbered_from_0(events, expected):
    frames = parse(ResponseFrames(job()).render(events))
    assert [name for name, _, _ in frames] == [f"response.{name}" for name in expected]
    assert [data["type"] for _, _, data in frames] == [f"response.{name}" for name in expected]
    assert [data["sequence_number"] for _, _, data in frames] == list(range(len(expected)))
    assert [number for _, number, _ in frames] == [str(i) for i in range(len(expected))]


def test_a_background_response_is_queued_first():
    frames = parse(ResponseFrames(job(is_background=True)).render(log()))
    statuses = [data["response"]["status"] for _, _, data in frames if "response" in data]
    assert [name for name, _, _ in frames][:3] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert statuses == ["queued", "queued", "in_progress", "completed"]


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("is_background", [False, True], ids=["foreground", "background"])
def test_every_event_is_what_openais_types_say(name, is_background):
    data = ResponseFrames(job(is_background=is_background)).render(LOGS[name])
    for kind, _, body in parse(data):
        event = EVENTS.validate_python(body)
        assert type(event).model_validate(body).type == kind


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("after", range(-1, 12))
def test_a_replay_from_any_number_is_the_tail_of_the_whole(name, after):
    spec = job(is_background=True)
    whole = parse(ResponseFrames(spec).render(LOGS[name]))
    tail = ResponseFrames(spec, after=after).render(LOGS[name])
    assert parse(tail) == [frame for frame in whole if int(frame[1] or -1) > after]


@pytest.mark.parametrize("name", LOGS)
def test_the_same_events_one_by_one_give_the_same_bytes(name):
    whole, split = ResponseFrames(job()), ResponseFrames(job())
    pieces = [split.render(()), *(split.render([event]) for event in LOGS[name])]
    assert b"".join(pieces) == whole.render(LOGS[name])
    assert pieces[0], "what it begins with needs no event"


def test_the_deltas_are_the_text_and_an_open_character_waits():
    frames = parse(ResponseFrames(job()).render(log()))
    deltas = [data["delta"] for name, _, data in frames if name.endswith("text.delta")]
    assert deltas == ["a\n\u2028", "\U0001f600"]
    done = next(data for name, _, data in frames if name.endswith("text.done"))
    assert done["text"] == "".join(deltas)
    assert frames[-1][2]["response"]["output"][0]["content"][0]["text"] == "".join(deltas)


def test_a_failure_that_was_retried_keeps_its_number():
    before = parse(ResponseFrames(job()).render(FAILED))
    retried = [*FAILED[:2], Retried(2), Tokens(3, log()[4].deltas), Done(5, Usage(3, 2, 0))]  # type: ignore[union-attr]
    after = parse(ResponseFrames(job()).render(retried))
    assert before[-1][0] == "response.failed"
    assert after[: len(before) - 1] == before[:-1]
    gone = int(before[-1][1] or -1)
    assert [int(number or -1) for _, number, _ in after][len(before) - 1 :] == list(
        range(gone + 1, gone + 6)
    )
    assert after[-1][0] == "response.completed"


def test_a_failure_that_is_not_in_the_log_is_an_error_without_a_number():
    frames = parse(ResponseFrames(job()).render([Started(0, 1), Failed(-1, "job_lost", "gone")]))
    kind, number, body = frames[-1]
    assert (kind, number, body["code"]) == ("error", None, "job_lost")
    assert body["error"]["code"] == "job_lost", "what makes clients raise"
    assert EVENTS.validate_python(body).type == "error"


def test_the_last_number_is_known_when_all_is_rendered():
    frames = ResponseFrames(job(), after=99)
    assert frames.render(log()) == b""
    assert frames.last_number == len(SAID) + len(END)


@pytest.mark.parametrize(
    ("events", "status"),
    [([], "queued"), (log()[:1], "in_progress"), *((v, k) for k, v in list(LOGS.items())[:4])],
)
def test_the_object_at_every_moment_is_openais(events, status):
    body = view(events, is_background=True)
    response = Response.model_validate(body)
    assert response.status == status
    assert (response.id, response.model, response.background) == (f"resp_{CODE}", "tiny", True)
    assert (response.max_output_tokens, response.top_p, response.metadata) == (9, 0.5, {"a": "b"})
    assert (response.usage is None) == (status not in ("completed", "incomplete"))


def test_a_completed_response_has_its_text_and_its_usage():
    response = Response.model_validate(view(log()))
    assert response.output_text == "a\n\u2028\U0001f600"
    assert response.output[0].id == f"msg_{CODE}"
    assert response.usage is not None
    usage = response.usage.to_dict()
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 4, 7)
    assert response.usage.input_tokens_details.cached_tokens == 1
    assert response.usage.output_tokens_details.reasoning_tokens == 0


def test_an_answer_that_was_cut_says_why():
    response = Response.model_validate(view(log("length")))
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].to_dict()["status"] == "incomplete"


@pytest.mark.parametrize(
    ("code", "openais"),
    [
        ("engine_error", "server_error"),
        ("context_length_exceeded", "invalid_prompt"),
        ("deadline_exceeded", "server_error"),
        ("a code of tomorrow", "server_error"),
    ],
)
def test_a_failed_response_has_one_of_openais_codes_and_ours_as_its_type(code, openais):
    response = Response.model_validate(view([Failed(0, code, "so", "p")]))
    assert response.error is not None
    assert (response.error.code, response.error.type, response.error.param) == (openais, code, "p")
    assert response.output == []


def test_a_cancelled_response_has_what_was_said_and_no_error():
    response = Response.model_validate(view(CANCELLED))
    assert (response.output_text, response.error) == ("a\n\u2028", None)
    assert response.output[0].to_dict()["status"] == "incomplete"


def test_the_items_of_a_job_are_those_that_were_put_in():
    assert items_of(job()) == ITEMS
    assert items_of(job(instructions="no rhymes")) == ITEMS
    assert view([], instructions="no rhymes")["instructions"] == "no rhymes"
    assert view([])["instructions"] is None


def test_the_shape_is_the_endpoints():
    chat = Job(**{**{f: getattr(job(), f) for f in Job.__struct_fields__}, "endpoint": ""})
    assert b"chat.completion.chunk" in frames_of(chat).render(log())
    assert b"response.created" in frames_of(job()).render(log())
    assert isinstance(answer_of(job()), ResponseView)
