"""The chat client against a scripted server: streaming, history, commands, errors."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy import cli
from deploy.chat import Chat
from deploy.client import Client, ServerError
from deploy.errors import StartError


class Server(ThreadingHTTPServer):
    """Answers with the events in `events`, after the status in `status`; keeps the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.events: list[str] = [delta("Hel"), ": ping", "id: 3", delta("lo"), "data: [DONE]"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        self.server.requests.append({"path": self.path, **json.loads(self.rfile.read(size))})
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.status)
        self.end_headers()
        for event in self.server.events:
            self.wfile.write(f"{event}\n\n".encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def delta(text: str | None) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def talk(server: Server, *lines: str) -> int:
    chat = Chat(Client(server.url, options={"model": "m"}).stream)
    return chat.run(lines, is_interactive=False)


def test_an_answer_is_streamed_to_stdout(server: Server, capsys) -> None:
    assert talk(server, "hi") == 0
    assert capsys.readouterr().out == "Hello\n"
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["stream"] is True
    assert request["messages"] == [{"role": "user", "content": "hi"}]


def test_the_conversation_goes_along_with_each_question(server: Server) -> None:
    talk(server, "one", "two")
    assert [m["content"] for m in server.requests[1]["messages"]] == ["one", "Hello", "two"]


def test_clear_forgets_the_conversation_and_keeps_the_system_message(server: Server) -> None:
    talk(server, "/system Be brief.", "one", "/clear", "two")
    assert server.requests[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two"},
    ]


def test_exit_ends_the_conversation_and_empty_lines_ask_nothing(server: Server) -> None:
    assert talk(server, "", "/exit", "never asked") == 0
    assert server.requests == []


def test_an_unknown_command_is_not_sent(server: Server, capsys) -> None:
    talk(server, "/cler", "/help")
    assert "there is no /cler" in capsys.readouterr().out
    assert server.requests == []


def test_the_servers_error_is_shown_and_ends_a_pipe_with_status_1(server: Server, capsys) -> None:
    server.status = 400
    server.events = [json.dumps({"error": {"message": "too long"}})]
    assert talk(server, "hi", "never asked") == 1
    assert capsys.readouterr().err == "tramontane: too long\n"
    assert len(server.requests) == 1


def test_an_error_leaves_the_history_as_it_was(server: Server) -> None:
    chat = Chat(Client(server.url, options={}).stream)
    server.status = 500
    chat.run(["lost"], is_interactive=True)
    server.status = 200
    chat.run(["kept"], is_interactive=True)
    assert [m["content"] for m in server.requests[1]["messages"]] == ["kept"]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([delta("Hel")], "the answer broke off"),
        ([delta("Hel"), 'data: {"error": {"message": "worker died"}}'], "worker died"),
    ],
    ids=["cut", "error event"],
)
def test_a_broken_stream_is_an_error(server: Server, events: list[str], message: str) -> None:
    server.events = events
    with pytest.raises(ServerError, match=message):
        list(Client(server.url, options={}).stream([]))


def test_nobody_listening_is_one_sentence() -> None:
    with pytest.raises(
        StartError, match=r"nothing answers at http://127\.0\.0\.1:9 .*tramontane s"
    ):
        list(Client("http://127.0.0.1:9", options={}).stream([]))


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "://", "http://x:99999", "x:port", "http://[::1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StartError, match="is not an address"):
        Client(url, options={})


def test_the_command_line_reaches_the_server(server: Server, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", iter_stdin("hi\n"))
    line = (
        f"chat --url {server.url}/v1 -m big --temperature 0 --max-tokens 5 --api-key k --system s"
    )
    assert cli.main(line.split()) == 0
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("big", 0.0, 5)
    assert request["path"] == "/v1/chat/completions"
    assert request["messages"][0] == {"role": "system", "content": "s"}
    assert server.headers[0]["Authorization"] == "Bearer k"


def iter_stdin(text: str):
    import io

    return io.StringIO(text)
