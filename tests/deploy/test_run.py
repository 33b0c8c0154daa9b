"""`tramontane run`: one process, the worker's own text path, the engine that the settings name."""

import io

import pytest

from deploy import cli

ENGINE = ["--engine", "tests.deploy.scripted_engine:load"]


@pytest.fixture(autouse=True)
def _is_no_terminal(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from the pipe"))


def test_the_built_in_model_answers_in_this_process(capsys) -> None:
    assert cli.main(["run", "-i", "Hello", "--temperature", "0", "--max-tokens", "12"]) == 0
    first = capsys.readouterr()
    assert first.out.strip()
    assert first.err == ""
    assert cli.main(["run", "-i", "Hello", "--temperature", "0", "--max-tokens", "12"]) == 0
    assert capsys.readouterr().out == first.out


def test_text_is_bounded_by_max_tokens_and_stop(capsys) -> None:
    cli.main(["run", "-i", "x", "--max-tokens", "8", *ENGINE])
    text = capsys.readouterr().out.rstrip("\n")
    assert text
    cli.main(["run", "-i", "x", "--max-tokens", "8", "--stop", text[-1], *ENGINE])
    assert text[-1] not in capsys.readouterr().out


def test_without_a_prompt_the_pipe_is_read(capsys) -> None:
    assert cli.main(["run", "--max-tokens", "2", *ENGINE]) == 0
    assert capsys.readouterr().out.strip()


def test_without_a_template_the_prompt_is_continued(capsys) -> None:
    line = ["run", "-i", "Once", "--no-chat-template", "--max-tokens", "2", *ENGINE]
    assert cli.main(line) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-i", "x " * 9000, *ENGINE], "maximum context length"),
        (["-i", "x", "--max-tokens", "0"], "Invalid value for 'max_tokens': expected `int` >= 1"),
        (["-i", "x", "--temperature", "nan"], "Invalid value for 'temperature'"),
        (["-i", "x", "--seed", str(2**70)], "Invalid value for 'seed'"),
        (["-i", "x", "--stop", ""], "Invalid value for 'stop"),
        (["-i", "x", "-m", "./nothing/here"], "neither a directory nor a repository"),
        (["-i", "x", "--engine", "nowhere:load"], "the engine nowhere:load cannot be imported"),
        (["-i", "x", "--engine", "tests.deploy.scripted_engine:refuse"], "made of cheese"),
        (["-i", "x", "--max-tokens", "many"], "--max-tokens: invalid int value: 'many'"),
    ],
    ids=[
        "prompt too long",
        "no tokens",
        "no temperature",
        "seed too large",
        "empty stop",
        "no model",
        "no engine",
        "no load",
        "no number",
    ],
)
def test_a_failure_is_one_sentence_and_status_2(arguments, sentence, capsys) -> None:
    assert cli.main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
