"""`tramontane re-isq` against a scripted server: what it asks, what it says, how it fails."""

import json
import threading
from collections.abc import Iterator

import pytest

from deploy import cli
from tests.deploy.test_chat import Server

ANSWER = {
    "workers": [
        {"id": "w1", "before": None, "after": "Q8_0", "took_ms": 1540},
        {"id": "w2", "before": "Q2K", "after": "Q8_0", "took_ms": 90},
    ]
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.events = [json.dumps(ANSWER)]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(server: Server, *flags: str) -> int:
    return cli.main(["re-isq", "--url", server.url, *flags])


def test_it_says_what_became_of_each_worker(server, capsys):
    assert run(server, "--type", "Q8_0", "--api-key", "boss", "-m", "m") == 0
    expected = {"path": "/v1/re_isq", "isq_type": "Q8_0", "model": "m"}
    assert server.requests == [expected]
    assert server.headers[0]["Authorization"] == "Bearer boss"
    assert capsys.readouterr().out.splitlines() == [
        "w1: as in the files -> Q8_0, 1.5 s",
        "w2: Q2K -> Q8_0, 0.1 s",
    ]


def test_a_refusal_is_the_server_s_own_sentence(server, capsys):
    server.status = 400
    server.events = [json.dumps({"error": {"message": "ISQ type Q9 unknown."}})]
    assert run(server, "--type", "Q9") == 1
    assert capsys.readouterr().err == "tramontane: ISQ type Q9 unknown.\n"


def test_without_a_type_or_a_server_it_says_so(capsys):
    assert cli.main(["re-isq"]) == 2
    assert "--type" in capsys.readouterr().err
    assert cli.main(["re-isq", "--type", "Q4K", "--url", "http://127.0.0.1:1"]) == 2
    assert "nothing answers" in capsys.readouterr().err
