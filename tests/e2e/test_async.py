"""Work that is asked for now and fetched later, through gunicorn and a real worker."""

import http.server
import json
import threading
import time
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.conftest import WEBHOOK_SECRET

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def question(text="What is the capital of France?", **fields):
    body = {"model": "any", "messages": [{"role": "user", "content": text}], "temperature": 0}
    return {**body, "max_tokens": 12, **fields}


@pytest.fixture(scope="module")
def received():
    """A webhook's target, and what it got: its URL, then (headers, body) of each call."""
    got: list[Any] = []

    class Target(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    got.append(f"http://127.0.0.1:{server.server_port}/hook")
    yield got
    server.shutdown()
    server.server_close()


def test_a_batch_of_lines_is_answered_as_each_alone_would_be(client, wait):
    texts = ["Hello!", "What is the capital of France?", "Count to five.", "Who are you?"]
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": CHAT, "body": question(text)}
        for i, text in enumerate(texts)
    ]
    lines.append({"custom_id": "bad", "method": "POST", "url": CHAT, "body": question(n=0)})
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
    )
    wait(lambda: client.batches.retrieve(batch.id).status in ENDED, "the batch ends", 60)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == (
        "completed",
        4,
        1,
    )
    out = [json.loads(x) for x in client.files.content(batch.output_file_id).text.splitlines()]
    got = {x["custom_id"]: x["response"]["body"]["choices"][0]["message"] for x in out}
    for i, text in enumerate(texts):
        alone = client.chat.completions.create(**question(text))
        assert got[f"c{i}"]["content"] == alone.choices[0].message.content
    (error,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(error)["custom_id"] == "bad"


def test_a_background_response_is_fetched_from_another_process(client, other_api_url, wait):
    made = client.responses.create(
        model="any", input="Tell me a story.", background=True, max_output_tokens=60
    )
    assert made.status in ("queued", "in_progress")
    with openai.OpenAI(base_url=other_api_url + "/v1", api_key="none") as other:
        wait(lambda: other.responses.retrieve(made.id).status not in ("queued", "in_progress"), "")
        whole = other.responses.retrieve(made.id)
        assert whole.usage is not None
        assert whole.usage.output_tokens == 60
        events = list(other.responses.retrieve(made.id, stream=True, starting_after=5))
    assert [e.sequence_number for e in events] == list(range(6, 6 + len(events)))
    tail = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert whole.output_text.endswith(tail)


def test_an_ended_job_calls_its_webhook_with_a_signature_that_openai_s_client_accepts(
    api_url, received, wait
):
    headers = {"prefer": "respond-async", "x-webhook-url": received[0]}
    answer = httpx2.post(api_url + CHAT, json=question(), headers=headers)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    wait(lambda: len(received) > 1, "the webhook is called")
    got, body = received[1]
    assert json.loads(body)["type"] == "job.completed"
    assert json.loads(body)["data"]["id"] == job["id"]
    verifier = openai.OpenAI(api_key="none", webhook_secret=WEBHOOK_SECRET)
    verifier.webhooks.verify_signature(body, got)
    state = httpx2.get(api_url + answer.headers["location"]).json()
    assert state["state"] == "completed"
    assert state["result"]["choices"][0]["message"]["content"]


def test_the_same_key_gets_the_same_job_while_it_streams(api_url, other_api_url):
    headers = {"idempotency-key": f"e2e-{time.time()}"}
    body = question("Tell me a long story.", max_tokens=120, stream=True, ignore_eos=True)
    texts, ids = [], []
    with httpx2.stream("POST", api_url + CHAT, json=body, headers=headers, timeout=60) as first:
        next(lines := first.iter_lines())
        again = httpx2.post(other_api_url + CHAT, json=body, headers=headers, timeout=60)
        for reply, rest in ((first, list(lines)), (again, again.text.splitlines())):
            ids.append(reply.headers["x-job-id"])
            texts.append([x for x in rest if x.startswith("data: ")])
    assert ids[0] == ids[1]
    assert again.headers["idempotent-replayed"] == "true"
    assert texts[0] == texts[1]
