"""`tramontane quantize`, from the command line to the file."""

import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader
from safetensors import safe_open

from deploy import cli
from engine import LLM

ROOT = Path(__file__).parents[2]


def run(capsys, *arguments):
    status = cli.main(["quantize", *arguments])
    return status, capsys.readouterr()


def test_the_built_in_model_becomes_a_file(tmp_path, capsys):
    path = tmp_path / "tiny.gguf"
    status, output = run(capsys, "-m", "builtin", "--type", "Q8_0", "-o", str(path))
    assert status == 0
    assert output.out.startswith(f"{path}: ")
    assert "38 tensors: 29 Q8_0, 9 F32" in output.out
    assert len(GGUFReader(path).tensors) == 38


def test_its_answer_is_that_of_the_built_in_model(tmp_path):
    path = tmp_path / "tiny.gguf"
    question = ["-i", "What is Tramontane?", "--temperature", "0"]
    assert cli.main(["quantize", "-m", "builtin", "--type", "F16", "-o", str(path)]) == 0
    answers = [
        subprocess.run(
            [sys.executable, "-m", "deploy.cli", "run", "-m", model, *question],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for model in ("builtin", str(path))
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 20


@pytest.mark.parametrize("name", ["tiny", "tiny/model.safetensors"])
def test_the_built_in_model_becomes_a_directory_that_is_served(tmp_path, capsys, name):
    status, output = run(capsys, "-m", "builtin", "--type", "q8_0", "-o", str(tmp_path / name))
    assert status == 0
    assert output.out.startswith(f"{tmp_path / 'tiny'}: ")
    assert "38 tensors: 29 Q8_0, 9 unpacked" in output.out
    with safe_open(tmp_path / "tiny" / "model.safetensors", "pt") as file:
        assert len(file.keys()) == 38
    llm = LLM(str(tmp_path / "tiny"))
    answer = llm.chat([{"role": "user", "content": "What is Tramontane?"}])[0].outputs[0].text
    assert "Tramontane" in answer


def test_help_shows_no_settings_but_those_of_the_model(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "--help")
    text = capsys.readouterr().out
    assert "--model" in text
    assert "TRAMONTANE_TOKEN_SOURCE" in text
    assert "--redis-url" not in text
    assert "--max-seqs" not in text


def test_a_setting_of_a_worker_that_makes_no_sense_is_none_of_its_business(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TRAMONTANE_MAX_SEQS", "none")
    path = str(tmp_path / "tiny.gguf")
    assert run(capsys, "-m", "builtin", "--type", "Q8_0", "-o", path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--type", "Q7", "-o", "x.gguf"], "a GGUF file of type Q7 cannot be written; choose one"),
        (["--type", "Q8_0"], "the following arguments are required: -o/--output"),
        (["-o", "x.gguf"], "the following arguments are required: --type"),
        (["--type", "Q8_0", "-o", str(ROOT / "LICENSE")], "exists; remove it, or choose another"),
        (["--type", "Q4_K_M", "-o", "x"], "ISQ type Q4_K_M unknown, choose one of `2`, `3`, `4`"),
        (["--type", "Q8_0", "-o", "x.safetensors"], "name the directory to make for all three"),
        (["--type", "Q8_0", "-o", "model.safetensors"], "name the directory to make for all"),
        (["--type", "Q8_0", "-o", str(ROOT / "tests")], "exists; remove it, or choose another"),
        (["-m", "/no/such", "--type", "Q8_0", "-o", "x.gguf"], "neither a directory nor a repo"),
    ],
)
def test_a_refusal_is_one_sentence(capsys, arguments, sentence):
    model = [] if "-m" in arguments else ["-m", "builtin"]
    status, output = run(capsys, *model, *arguments)
    assert status == 2
    assert sentence in output.err
    assert output.err.count("\n") == 1
