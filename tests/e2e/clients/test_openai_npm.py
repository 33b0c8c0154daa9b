"""The npm package `openai`, unchanged, against the running server: `make nightly-clients`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
PACKAGES = os.environ.get("OPENAI_NPM", "")
PROGRAM = Path(__file__).with_name("openai_client.cjs")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(NODE is None, reason="there is no node on PATH"),
    pytest.mark.skipif(not PACKAGES, reason="make nightly-clients, with npm on PATH"),
]
QUESTION = [{"role": "user", "content": "What is Tramontane?"}]


@pytest.fixture(scope="module")
def scenarios(api_url):
    assert NODE is not None
    result = subprocess.run(
        [NODE, str(PROGRAM), api_url], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def said(scenarios, request):
    """What the test's scenario saw."""
    seen = scenarios[request.param]
    assert not (isinstance(seen, dict) and "failed" in seen), seen["failed"]
    return seen


@pytest.fixture
def expected(client):
    return client.chat.completions.create(model="any", messages=QUESTION, temperature=0)


def of(name):
    """The scenario that a test is about."""
    return pytest.mark.parametrize("said", [name], indirect=True)


@of("whole")
def test_it_reads_an_answer_with_its_usage_and_request_id(said, expected):
    assert said["text"] == expected.choices[0].message.content
    assert said["usage"]["total_tokens"] == expected.usage.total_tokens
    assert said["id"].startswith("req_")


@of("stream")
def test_its_stream_is_the_same_text_and_ends_with_the_usage(said, expected):
    assert said["text"] == expected.choices[0].message.content
    assert said["num"] > 3
    assert said["ids"] == 1
    assert said["usage"]["total_tokens"] == expected.usage.total_tokens


@of("assembled")
def test_it_puts_the_chunks_of_two_choices_together_with_their_logprobs(said, expected):
    text = expected.choices[0].message.content
    assert [(choice["text"], choice["finish"]) for choice in said] == [(text, "stop")] * 2
    assert all(choice["tokens"].startswith(text) for choice in said)


@of("schema")
def test_its_answer_follows_a_schema(said):
    assert sorted(said) == ["cold", "speed"]


@of("tool")
def test_it_puts_the_streamed_arguments_of_a_call_together(said):
    assert said["name"] == "add"
    assert said["id"]
    assert 0 <= said["args"]["speed"] <= 9


@of("left")
def test_it_leaves_a_stream(said, api_url, wait):
    import httpx2

    def is_idle():
        workers = httpx2.get(api_url + "/ready").json()["workers"]
        return sum(worker["running"] + worker["waiting"] for worker in workers) == 0

    assert said == {"isAborted": True}
    wait(is_idle, "its sequence is freed")


@of("completion")
def test_its_completions_go_on_with_a_text(said, client):
    text = client.completions.create(model="any", prompt="Once", temperature=0, max_tokens=9)
    assert said == text.choices[0].text


@of("response")
def test_it_follows_a_response_from_its_first_event_to_its_last(said, expected):
    assert said["text"] == expected.choices[0].message.content
    assert (said["first"], said["last"]) == ("response.created", "response.completed")
    assert said["status"] == "completed"


@of("background")
def test_it_goes_on_with_a_background_response_behind_an_event(said, expected):
    assert said["numbers"] == list(range(2, 2 + len(said["numbers"])))
    assert (said["status"], said["text"]) == ("completed", expected.choices[0].message.content)


@of("models")
def test_it_lists_the_models(said):
    assert said == ["tramontane-tiny"]


@of("batch")
def test_it_runs_a_batch_from_file_to_file(said):
    assert said == {"status": "completed", "custom_id": "a"}


@of("bad")
def test_what_the_server_refuses_is_its_error_of_a_bad_request(said):
    assert said.pop("hasId")
    assert said == {
        "name": "BadRequestError",
        "status": 400,
        "param": "temperature",
        "type": "invalid_request_error",
    }


@of("missing")
def test_what_is_not_there_is_its_error_of_a_missing_thing(said):
    assert (said["name"], said["status"]) == ("NotFoundError", 404)
