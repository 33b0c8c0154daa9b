"""Schemathesis against the API's own description: no 5xx, nothing that is not documented.

Half of the requests fit the schemas, half break them on purpose. `SCHEMATHESIS_EXAMPLES` says how
many each operation gets.
"""

import json
import os
import tempfile
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.openapi.document import openapi
from api.openapi.operations import OPERATIONS

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "50"))
CHAT = "/v1/chat/completions"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(openapi(OPERATIONS))))


@pytest.fixture(scope="module")
def server(_shared_redis, make_worker, start_api, directory, wait):
    """With a Redis of its own, for what other tests list must not be full of this."""
    with tempfile.TemporaryDirectory(prefix="tr-") as name:
        redis = type(_shared_redis)(Path(name))
        redis.start()
        models = {"tiny/demo": "generate", "tiny/embed": "embed", "tiny/score": "score"}
        workers = [make_worker(redis.url, model=m, task=task) for m, task in models.items()]
        for worker in workers:
            worker.start()
        server = start_api(redis.url, directory, ping_s=0.3, redis_timeout_s=15)
        wait(lambda: len(server.get("/v1/models").json["data"]) == 3, "the workers are known")
        yield server
        server.kill()
        for worker in workers:
            worker.stop()
        redis.stop()
        assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(scope="module")
def known(server):
    """Ids that lead somewhere, by the names that they have in paths."""
    job = server.chat("echo hello there").json
    response = server.request("POST", "/v1/responses", {"input": "echo hello", "background": True})
    boundary = b"--b\r\nContent-Disposition: form-data; name="
    form = b"\r\n".join(
        [
            boundary + b'"purpose"\r\n\r\nbatch',
            boundary + b'"file"; filename="in.jsonl"\r\n\r\n{}',
            b"--b--\r\n",
        ]
    )
    file = server.request("POST", "/v1/files", form, content_type="multipart/form-data; boundary=b")
    body = {
        "input_file_id": file.json["id"],
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    batch = server.request("POST", "/v1/batches", body)
    return {
        "job_id": job["id"],
        "response_id": response.json["id"],
        "file_id": file.json["id"],
        "batch_id": batch.json["id"],
        "name": "tiny/demo",
    }


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        yield session


def lead(case, known):
    """Name what is there, unless that ends it, and nothing that this server refuses anyway."""
    if case.method == "GET":
        given_ids = dict(case.path_parameters or {})
        case.path_parameters = {name: known.get(name, id_) for name, id_ in given_ids.items()}
    case.headers.pop("x-webhook-url", None)
    if case.path == "/v1/batches" and isinstance(case.body, dict):
        case.body |= {"endpoint": CHAT, "input_file_id": known["file_id"]}
    if case.path.endswith(("tokenize", "template")) and isinstance(case.body, dict):
        case.body["model"] = known["name"]


@pytest.mark.timeout(max(120, EXAMPLES))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_answer_is_a_documented_one(operation, server, known, session):
    described = SCHEMA[operation.path.replace(":path", "")][operation.method]
    mode = st.sampled_from(list(GenerationMode))

    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES <= 50,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=mode.flatmap(described.as_strategy), is_known=st.booleans())
    def check(case, is_known):
        if is_known:
            lead(case, known)
        case.call_and_validate(server.url, session=session, checks=CHECKS, timeout=20)

    check()
