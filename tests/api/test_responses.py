"""/v1/responses over real HTTP: stored, followed, stopped, deleted, from any API process."""

import contextlib
import hashlib
import json
import typing

import pytest
import redis

from workers import contract

RESPONSES = "/v1/responses"
CODE = "0123456789abcdef" * 2


def create(server, prompt, **fields):
    return server.request("POST", RESPONSES, {"model": "m", "input": prompt, **fields})


def get(server, response_id, query=""):
    return server.get(f"{RESPONSES}/{response_id}{query}")


def status_of(server, response_id):
    return get(server, response_id).json["status"]


@contextlib.contextmanager
def open_stream(server, prompt, **fields):
    connection = server.connect()
    body = {"input": prompt, "stream": True, **fields}
    connection.request("POST", RESPONSES, json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        yield response


@pytest.fixture
def finished(api):
    """A finished background response: its id and its frames."""
    reply = create(api, "echo one two three", stream=True, background=True)
    return reply.headers["x-job-id"], reply.frames


def test_a_response_is_answered_in_one_piece(api):
    reply = create(api, "echo one two", metadata={"a": "b"}, instructions="sing")
    assert reply.status == 200
    body = reply.json
    assert body["id"] == reply.headers["x-job-id"]
    assert body["id"].startswith("resp_")
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "tiny/demo")
    assert body["output"][0]["content"][0]["text"] == "one two "
    assert (body["metadata"], body["instructions"]) == ({"a": "b"}, "sing")
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }


def test_what_was_stored_is_the_same_on_every_process(api, other):
    made = create(api, "echo one two").json
    assert get(api, made["id"]).json == made
    assert get(other, made["id"]).json == made


def test_the_worker_gets_what_was_asked(api, fake_worker):
    made = create(api, "echo a", store=False, user="u").json
    spec = fake_worker.specs[made["id"]]
    assert (spec.endpoint, spec.result_ttl_s, spec.is_detached) == (RESPONSES, 0, False)
    made = create(api, "echo a").json
    assert fake_worker.specs[made["id"]].result_ttl_s == 86400


def test_what_is_not_stored_is_not_there(api):
    made = create(api, "echo a", store=False).json
    assert made["store"] is False
    assert get(api, made["id"]).status == 404
    reply = create(api, "echo b", previous_response_id=made["id"])
    assert (reply.status, reply.json["error"]["code"]) == (400, "previous_response_not_found")
    assert reply.json["error"]["param"] == "previous_response_id"


def test_a_stream_that_is_not_stored_can_still_be_resumed_as_a_job(other, api):
    reply = create(api, "echo one two", store=False, stream=True)
    rest = other.get(f"/v1/jobs/{reply.headers['x-job-id']}/events?starting_after=4")
    assert rest.status == 200
    assert rest.frames == [frame for frame in reply.frames if frame[0] > 4]


def test_a_response_is_a_job_too_with_its_own_numbers(api, other, finished):
    response_id, frames = finished
    events = f"/v1/jobs/{response_id}/events"
    assert other.get(events).frames == frames
    assert other.get(events, Last_Event_ID=str(frames[-2][0])).frames == frames[-1:]
    assert other.get(events, Last_Event_ID=str(frames[-1][0])).status == 204


def test_the_stream_has_the_sse_headers_and_no_done(api):
    reply = create(api, "echo a", stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert b"event: response.created\nid: 0\ndata: {" in reply.body
    assert b"[DONE]" not in reply.body
    assert [number for number, _ in reply.frames] == list(range(len(reply.frames)))


@pytest.mark.parametrize("last", [0, 1, 4, 5, 7, 11])
def test_a_finished_stream_goes_on_behind_any_number_elsewhere(api, other, finished, last):
    response_id, frames = finished
    rest = [frame for frame in frames if frame[0] > last]
    reply = get(other, response_id, f"?stream=true&starting_after={last}")
    assert (reply.status, reply.frames) == (200, rest)
    reply = other.request("GET", f"{RESPONSES}/{response_id}?stream=true", Last_Event_ID=str(last))
    assert reply.frames == rest


def test_the_whole_stream_can_be_read_again(other, finished):
    response_id, frames = finished
    assert get(other, response_id, "?stream=true").frames == frames


def test_behind_the_last_event_there_is_nothing_and_beyond_it_nonsense(other, finished):
    response_id, frames = finished
    last = frames[-1][0]
    reply = get(other, response_id, f"?stream=true&starting_after={last}")
    assert (reply.status, reply.frames) == (200, [])
    for number in (last + 1, -1, "x", "1.5", "9" * 30):
        reply = get(other, response_id, f"?stream=true&starting_after={number}")
        assert (reply.status, reply.json["error"]["param"]) == (400, "starting_after")


def test_a_running_stream_is_followed_live_by_another_process(api, other):
    with open_stream(api, "count 300", background=True) as response:
        response_id = response.headers["x-job-id"]
        reply = get(other, response_id, "?stream=true&starting_after=1")
    assert reply.frames[0][1]["type"] == "response.in_progress"
    deltas = [d["delta"] for _, d in reply.frames if d["type"] == "response.output_text.delta"]
    assert deltas == [f"{i} " for i in range(300)]
    assert reply.frames[-1][1]["type"] == "response.incomplete"
    assert get(api, response_id).json["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_background_response_is_queued_then_runs_then_is_there(api, other, fake_worker, wait):
    fake_worker.is_paused = True
    try:
        made = create(api, "echo one two", background=True)
        assert (made.status, made.json["status"], made.json["output"]) == (200, "queued", [])
        assert made.json["background"] is True
        response_id = made.json["id"]
        assert status_of(other, response_id) == "queued"
    finally:
        fake_worker.is_paused = False
    wait(lambda: status_of(other, response_id) == "completed", "it runs without a client")
    assert get(api, response_id).json["output"][0]["content"][0]["text"] == "one two "


def test_a_background_stream_begins_before_a_worker_is_free(api, fake_worker):
    fake_worker.is_paused = True
    try:
        with open_stream(api, "echo a", background=True) as response:
            data = b""
            while b"response.queued" not in data:
                data += response.read1(4096)
            fake_worker.is_paused = False
            data += response.read()
    finally:
        fake_worker.is_paused = False
    assert b"event: response.completed" in data


def test_a_running_response_shows_what_was_said_so_far(api, wait):
    made = create(api, "hang on", background=True).json
    wait(lambda: bool(get(api, made["id"]).json["output"]), "it says something")
    wait(
        lambda: get(api, made["id"]).json["output"][0]["content"][0]["text"] == "then nothing",
        "all that was said is shown",
    )
    now = get(api, made["id"]).json
    assert (now["status"], now["usage"]) == ("in_progress", None)
    assert now["output"][0]["status"] == "in_progress"
    assert api.request("DELETE", f"{RESPONSES}/{made['id']}").status == 200


def test_it_runs_on_when_its_client_leaves_if_it_is_in_the_background(api, fake_worker, wait):
    with open_stream(api, "count 150", background=True) as response:
        response_id = response.headers["x-job-id"]
        response.read1(100)
    wait(lambda: status_of(api, response_id) == "incomplete", "it runs to its end")
    assert response_id not in fake_worker.cancelled


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_else_it_is_cancelled_when_its_client_leaves(api, fake_worker, wait, is_stream):
    known = set(fake_worker.specs)
    connection = api.connect()
    body = {"input": "hang on", "stream": is_stream}
    connection.request("POST", RESPONSES, json.dumps(body))
    wait(lambda: bool(set(fake_worker.specs) - known), "it runs")
    connection.close()
    (response_id,) = set(fake_worker.specs) - known
    wait(lambda: response_id in fake_worker.cancelled, "the worker is told")
    wait(lambda: status_of(api, response_id) == "cancelled", "it is cancelled")


def cancel(server, response_id):
    return server.request("POST", f"{RESPONSES}/{response_id}/cancel")


def test_a_background_response_is_cancelled_from_another_process(api, other, wait):
    made = create(api, "hang on", background=True).json
    wait(lambda: status_of(api, made["id"]) == "in_progress", "it runs")
    reply = cancel(other, made["id"])
    assert (reply.status, reply.json["status"], reply.json["error"]) == (200, "cancelled", None)
    assert cancel(api, made["id"]).json == reply.json, "again is the same"
    frames = get(api, made["id"], "?stream=true").frames
    assert frames[-1][1]["type"] == "response.failed"
    assert frames[-1][1]["response"] == reply.json


def test_one_that_waits_is_cancelled_too_while_somebody_follows_it(
    api, other, fake_worker, api_redis
):
    fake_worker.is_paused = True
    try:
        with open_stream(api, "echo a", background=True) as response:
            response_id = response.headers["x-job-id"]
            assert cancel(api, response_id).json["status"] == "cancelled"
            assert b"event: response.failed" in response.read()
    finally:
        fake_worker.is_paused = False
    assert status_of(other, response_id) == "cancelled"
    with redis.Redis.from_url(api_redis.url) as client:
        left_s = typing.cast(int, client.ttl(contract.log_key(response_id)))
    assert left_s > 80000, "it is kept as long as any stored response"
    assert response_id not in fake_worker.specs


def test_what_has_ended_stays_as_it_is_when_it_is_cancelled(api, finished):
    response_id, _ = finished
    reply = cancel(api, response_id)
    assert (reply.status, reply.json["status"]) == (200, "completed")


def test_only_background_responses_can_be_cancelled(api):
    made = create(api, "echo a").json
    assert cancel(api, made["id"]).status == 400
    assert cancel(api, f"resp_{CODE}").status == 404


def is_nowhere(server, response_id):
    paths = ["", "?stream=true", "/input_items"]
    replies = [get(server, response_id, path) for path in paths]
    replies.append(server.get(f"/v1/jobs/{response_id}/events"))
    replies.append(cancel(server, response_id))
    replies.append(server.request("DELETE", f"{RESPONSES}/{response_id}"))
    return {reply.status for reply in replies} == {404}


def test_a_deleted_response_is_nowhere(api, other, finished, api_redis):
    response_id, _ = finished
    reply = api.request("DELETE", f"{RESPONSES}/{response_id}")
    assert reply.status == 200
    assert reply.json == {"id": response_id, "object": "response", "deleted": True}
    assert is_nowhere(api, response_id)
    assert is_nowhere(other, response_id)
    with redis.Redis.from_url(api_redis.url) as client:
        key = contract.job_key(response_id)
        assert typing.cast(bytes | None, client.hget(key, "spec")) is None
        assert typing.cast(int, client.ttl(contract.log_key(response_id))) <= 60


def test_a_running_response_is_cancelled_and_gone_when_it_is_deleted(api, other, fake_worker, wait):
    made = create(api, "hang on", background=True).json
    wait(lambda: status_of(api, made["id"]) == "in_progress", "it runs")
    assert other.request("DELETE", f"{RESPONSES}/{made['id']}").status == 200
    assert made["id"] in fake_worker.cancelled
    assert is_nowhere(api, made["id"])


@pytest.mark.parametrize(
    "name", ["x", "resp_x", f"resp_{CODE}", f"chatcmpl-{CODE}", f"resp_{CODE}%00", "resp_%2E"]
)
def test_an_unknown_response_is_404(api, name):
    reply = get(api, name)
    assert reply.status == 404
    assert reply.json["error"]["type"] == "invalid_request_error"


def test_a_chat_is_no_response(api):
    chat = api.chat("echo a").json
    assert get(api, chat["id"]).status == 404


def test_a_conversation_goes_on_from_a_response(api, fake_worker):
    first = create(api, "echo one two", instructions="sing").json
    second = create(api, "echo three", previous_response_id=first["id"]).json
    assert second["previous_response_id"] == first["id"]
    third = create(api, "echo four", previous_response_id=second["id"], instructions="hum").json
    assert fake_worker.specs[third["id"]].messages == [
        {"role": "system", "content": "hum"},
        {"role": "user", "content": "echo one two"},
        {"role": "assistant", "content": "one two "},
        {"role": "user", "content": "echo three"},
        {"role": "assistant", "content": "three "},
        {"role": "user", "content": "echo four"},
    ]
    assert second["instructions"] is None, "they are not carried over"


def test_a_response_that_runs_or_failed_cannot_be_continued(api, wait):
    running = create(api, "hang on", background=True).json["id"]
    reply = create(api, "echo a", previous_response_id=running)
    assert (reply.status, reply.json["error"]["param"]) == (400, "previous_response_id")
    cancel(api, running)
    reply = create(api, "echo a", previous_response_id=running)
    assert (reply.status, reply.json["error"]["param"]) == (400, "previous_response_id")


def test_a_conversation_that_grew_too_large_is_refused(start_api, api_redis, directory):
    server = start_api(api_redis.url, directory, max_body_bytes=2048)
    try:
        first = create(server, "echo " + "x" * 1000).json["id"]
        reply = create(server, "echo b", previous_response_id=first)
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
    finally:
        server.kill()


def test_a_tenant_never_sees_anothers_responses(start_api, api_redis, directory, fake_worker):
    path = directory / "responses.toml"
    hashes = {name: hashlib.sha256(f"sk-{name}".encode()).hexdigest() for name in "ab"}
    path.write_text(
        "".join(f'[[keys]]\ntenant = "{n}"\nhash = "sha256:{h}"\n' for n, h in hashes.items())
    )
    server = start_api(api_redis.url, directory, api_keys_file=str(path))
    try:

        def ask(name, method, path, **body):
            key = {"Authorization": f"Bearer sk-{name}"}
            return server.request(method, RESPONSES + path, body or None, **key)

        made = ask("a", "POST", "", input="hang on", background=True).json
        item = ask("a", "GET", f"/{made['id']}/input_items").json["data"][0]["id"]
        for method, end in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            assert ask("b", method, f"/{made['id']}{end}").status == 404
        assert ask("b", "DELETE", f"/{made['id']}").status == 404
        assert ask("b", "GET", f"/{made['id']}?stream=true").status == 404
        reply = ask("b", "POST", "", input="echo a", previous_response_id=made["id"])
        assert reply.json["error"]["code"] == "previous_response_not_found"
        reply = ask("b", "POST", "", input=[{"type": "item_reference", "id": item}])
        assert reply.json["error"]["code"] == "item_not_found"
        assert ask("a", "POST", f"/{made['id']}/cancel").json["status"] == "cancelled"
    finally:
        server.kill()


def test_an_item_reference_is_resolved(api, fake_worker):
    first = create(api, [{"role": "user", "content": "echo one"}]).json
    output = first["output"][0]["id"]
    question = get(api, first["id"], "/input_items").json["data"][0]["id"]
    items = [{"type": "item_reference", "id": i} for i in (question, output)]
    made = create(api, [*items, {"role": "user", "content": "echo two"}]).json
    texts = [m["content"] for m in fake_worker.specs[made["id"]].messages or []]
    assert texts == ["echo one", "one ", "echo two"]
    reply = create(api, [{"type": "item_reference", "id": f"msg_{CODE}"}])
    assert (reply.status, reply.json["error"]["param"]) == (400, "input[0].id")


def test_items_of_many_responses_cannot_be_referred_to_at_once(api):
    names = [f"msg_{i:032x}" for i in range(65)]
    reply = create(api, [{"type": "item_reference", "id": name} for name in names])
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_value")
    first = create(api, "echo one").json["output"][0]["id"]
    again = [{"type": "item_reference", "id": first}] * 65
    assert create(api, [*again, {"role": "user", "content": "echo two"}]).status == 200


def test_input_items_come_in_pages(api):
    first = create(api, "echo one").json["id"]
    body = [{"role": "user", "content": f"echo {i}"} for i in range(4)]
    made = create(api, body, previous_response_id=first).json["id"]

    def page(query):
        return get(api, made, f"/input_items{query}").json

    every = page("?order=asc")
    texts = [item["content"][0]["text"] for item in every["data"]]
    assert texts == ["echo one", "one ", "echo 0", "echo 1", "echo 2", "echo 3"]
    assert [item["role"] for item in every["data"]][:2] == ["user", "assistant"]
    assert (every["object"], every["has_more"]) == ("list", False)
    ids = [item["id"] for item in every["data"]]
    assert [item["id"] for item in page("")["data"]] == ids[::-1], "the newest first"
    part = page(f"?order=asc&limit=2&after={ids[1]}")
    assert (part["first_id"], part["last_id"], part["has_more"]) == (ids[2], ids[3], True)
    assert page(f"?after={ids[0]}") == {
        "object": "list",
        "data": [],
        "first_id": "",
        "last_id": "",
        "has_more": False,
    }


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_1"])
def test_a_bad_page_is_refused(api, finished, query):
    reply = get(api, finished[0], f"/input_items?{query}")
    assert (reply.status, reply.json["error"]["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "background": True}])
@pytest.mark.parametrize(
    ("code", "status"), [("context_length_exceeded", 400), ("engine_error", 500)]
)
def test_an_early_failure_is_a_real_status(api, fields, code, status):
    reply = create(api, f"fail {code}", **fields)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)


def test_a_late_failure_ends_the_stream_with_the_response(api):
    frames = create(api, "fail_late engine_error", stream=True).frames
    last = frames[-1][1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["type"] == "engine_error"
    assert last["response"]["output"][0]["content"][0]["text"] == "so far "
    assert get(api, last["response"]["id"]).json == last["response"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "input"), ({"input": "a", "background": True, "store": False}, "store")],
)
def test_bad_input_names_its_param(api, body, param):
    reply = api.request("POST", RESPONSES, body)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)
    assert api.request("POST", RESPONSES, b"{").status == 400


def test_a_silent_stream_gets_pings(api, wait):
    with open_stream(api, "hang on") as response:
        data = b""
        while data.count(b": ping\n") < 2:
            data += response.read1(4096)
    assert b"event: response.output_text.delta" in data


def test_an_expired_response_is_gone(start_api, api_redis, directory, fake_worker, wait):
    made = None
    server = start_api(api_redis.url, directory, store_ttl_s=123)
    try:
        made = create(server, "echo a").json["id"]
        assert fake_worker.specs[made].result_ttl_s == 123
        with redis.Redis.from_url(api_redis.url) as client:
            client.delete(contract.job_key(made), contract.log_key(made))
        assert get(server, made).status == 404
    finally:
        server.kill()
