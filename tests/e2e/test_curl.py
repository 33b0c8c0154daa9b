"""curl, as a shell script would use it: its exit status, its stream, its upload."""

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
BODY = {"messages": [{"role": "user", "content": "What is Tramontane?"}], "temperature": 0}


def curl(*arguments, **options):
    """Fails as curl does where the server refuses."""
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", *arguments],
        capture_output=True,
        **options,
    )


@pytest.fixture
def chat_url(api_url):
    return api_url + "/v1/chat/completions"


@pytest.fixture
def expected(client):
    answer = client.chat.completions.create(model="any", **BODY)
    return answer.choices[0].message.content


def test_a_question_is_answered(chat_url, expected):
    """Without a content type of JSON, as people leave it out."""
    result = curl(chat_url, "-d", json.dumps(BODY))
    assert result.returncode == 0, result
    assert json.loads(result.stdout)["choices"][0]["message"]["content"] == expected


def test_a_stream_comes_as_lines_until_it_is_done(chat_url, expected):
    result = curl("-N", chat_url, "--json", json.dumps(BODY | {"stream": True}))
    lines = [line for line in result.stdout.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len(chunks) > 3
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == expected


def test_what_is_refused_is_its_status_22_with_the_reason(chat_url):
    result = curl(chat_url, "-d", json.dumps(BODY | {"temperature": 9}))
    assert result.returncode == 22
    assert json.loads(result.stdout)["error"]["param"] == "temperature"


def test_a_body_from_a_pipe_is_read_in_chunks(chat_url, expected):
    chunked = ("-H", "transfer-encoding: chunked", "--data-binary", "@-")
    result = curl(chat_url, *chunked, input=json.dumps(BODY).encode())
    assert json.loads(result.stdout)["choices"][0]["message"]["content"] == expected


def test_a_file_is_uploaded_and_comes_back(api_url, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text("{}\n")
    made = curl(api_url + "/v1/files", "-F", "purpose=batch", "-F", f"file=@{file}")
    assert made.returncode == 0, made
    stored = json.loads(made.stdout)
    assert (stored["filename"], stored["bytes"]) == ("in.jsonl", 3)
    assert curl(f"{api_url}/v1/files/{stored['id']}/content").stdout == b"{}\n"


def test_health_answers_to_head(api_url):
    assert curl("--head", api_url + "/health").stdout.startswith(b"HTTP/1.1 200 ")
