"""The command line's grammar: which words and flags become which command and environment."""

import subprocess
import sys

import pytest

from deploy import cli
from deploy.errors import StartError

COMMAND_LINES = {
    "the guide: GGUF from a repository": (
        "--port 8080 --log info gguf -m TheBloke/Llama-2-7B-Chat-GGUF "
        "-f llama-2-7b-chat.Q4_K_M.gguf",
        {
            "PORT": "8080",
            "TRAMONTANE_LOG": "info",
            "TRAMONTANE_KIND": "gguf",
            "TRAMONTANE_MODEL": "TheBloke/Llama-2-7B-Chat-GGUF",
            "TRAMONTANE_MODEL_FILE": "llama-2-7b-chat.Q4_K_M.gguf",
        },
    ),
    "the guide: safetensors": (
        "--port 8080 plain -m mistralai/Mistral-7B-Instruct-v0.3",
        {
            "PORT": "8080",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "mistralai/Mistral-7B-Instruct-v0.3",
        },
    ),
    "the guide: every server flag": (
        "--port 8080 --host 0.0.0.0 --log info --token-source env:HF_TOKEN --max-seqs 16 "
        "--no-paged-attn --prefix-cache-n 16 plain -m meta-llama/Meta-Llama-3-8B-Instruct",
        {
            "PORT": "8080",
            "TRAMONTANE_HOST": "0.0.0.0",
            "TRAMONTANE_LOG": "info",
            "TRAMONTANE_TOKEN_SOURCE": "env:HF_TOKEN",
            "TRAMONTANE_MAX_SEQS": "16",
            "TRAMONTANE_PAGED_ATTN": "false",
            "TRAMONTANE_PREFIX_CACHE_N": "16",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "meta-llama/Meta-Llama-3-8B-Instruct",
        },
    ),
    "the guide: request log": (
        "--port 8080 --log info --request-logging-file ./requests.jsonl plain -m org/name",
        {
            "PORT": "8080",
            "TRAMONTANE_LOG": "info",
            "TRAMONTANE_REQUEST_LOGGING_FILE": "./requests.jsonl",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "org/name",
        },
    ),
    "flags after the kind": (
        "plain -m org/name --max-seqs 4 -p 80 --no-paged-attn",
        {
            "PORT": "80",
            "TRAMONTANE_MAX_SEQS": "4",
            "TRAMONTANE_PAGED_ATTN": "false",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "org/name",
        },
    ),
    "serve is an alias": (
        "serve gguf --port=8080 -m dir -f a.gguf",
        {
            "PORT": "8080",
            "TRAMONTANE_KIND": "gguf",
            "TRAMONTANE_MODEL": "dir",
            "TRAMONTANE_MODEL_FILE": "a.gguf",
        },
    ),
    "serve between flags": (
        "--port 1 serve --strict-model-names plain -m dir",
        {
            "PORT": "1",
            "TRAMONTANE_STRICT_MODEL_NAMES": "true",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "dir",
        },
    ),
    "a model without a kind": ("serve -m dir", {"TRAMONTANE_MODEL": "dir"}),
    "serve alone is the built-in model": ("serve", {}),
    "flags alone mean serve": ("--port 9", {"PORT": "9"}),
    "mistral.rs's long names": (
        "gguf --quantized-model-id dir --quantized-filename a.gguf",
        {
            "TRAMONTANE_KIND": "gguf",
            "TRAMONTANE_MODEL": "dir",
            "TRAMONTANE_MODEL_FILE": "a.gguf",
        },
    ),
    "mistral.rs's short names of templates": (
        "-c mine.json -j explicit.jinja plain -m dir",
        {
            "TRAMONTANE_CHAT_TEMPLATE": "mine.json",
            "TRAMONTANE_JINJA_EXPLICIT": "explicit.jinja",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "dir",
        },
    ),
    "a value that looks like a kind": (
        "plain -m plain",
        {"TRAMONTANE_KIND": "plain", "TRAMONTANE_MODEL": "plain"},
    ),
    "GGML with mistral.rs's flags": (
        "-p 1 ggml -m dir -f llama.ggmlv3.q4_0.bin -t org/tokenizer -g 8",
        {
            "PORT": "1",
            "TRAMONTANE_KIND": "ggml",
            "TRAMONTANE_MODEL": "dir",
            "TRAMONTANE_MODEL_FILE": "llama.ggmlv3.q4_0.bin",
            "TRAMONTANE_TOKENIZER": "org/tokenizer",
            "TRAMONTANE_GQA": "8",
        },
    ),
    "a tokenizer beside a GGUF file, and a choice by bits": (
        "gguf -m org/name -f 4 --tok-model-id ./tokenizer",
        {
            "TRAMONTANE_KIND": "gguf",
            "TRAMONTANE_MODEL": "org/name",
            "TRAMONTANE_MODEL_FILE": "4",
            "TRAMONTANE_TOKENIZER": "./tokenizer",
        },
    ),
    "plain with mistral.rs's flags": (
        "--serve-ip 127.0.0.1 plain -m org/name -a llama -d bf16 --max-seq-len 4096",
        {
            "TRAMONTANE_HOST": "127.0.0.1",
            "TRAMONTANE_KIND": "plain",
            "TRAMONTANE_MODEL": "org/name",
            "TRAMONTANE_ARCH": "llama",
            "TRAMONTANE_DTYPE": "bf16",
            "TRAMONTANE_MAX_MODEL_LEN": "4096",
        },
    ),
    "settings of the private Redis": (
        "--data-dir /data --redis-maxmemory 1gb serve",
        {"TRAMONTANE_DATA_DIR": "/data", "TRAMONTANE_REDIS_MAXMEMORY": "1gb"},
    ),
}


@pytest.mark.parametrize(("line", "expected"), COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_a_command_line_becomes_an_environment(line, expected) -> None:
    call = cli.parse(line.split(), {})
    assert call.environ == expected
    assert call.command.__name__ == "deploy.local"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("chat --port 8080", "deploy.chat"),
        ("--port 8080 chat", "deploy.chat"),
        ("run -m dir -i hello", "deploy.run"),
        ("run gguf -m dir -f a.gguf -i hello", "deploy.run"),
        ("worker --redis-url redis://h", "deploy.worker_role"),
        ("api --redis-url redis://h", "deploy.api_role"),
        ("check", "deploy.check"),
        ("settings", "deploy.settings_command"),
    ],
)
def test_a_word_chooses_the_command(line: str, module: str) -> None:
    assert cli.parse(line.split(), {}).command.__name__ == module  # type: ignore[attr-defined]


def test_a_flag_wins_over_its_variable() -> None:
    call = cli.parse(["--port", "1", "serve"], {"PORT": "2", "TRAMONTANE_LOG": "warn", "HOME": "/"})
    assert call.environ == {"PORT": "1", "TRAMONTANE_LOG": "warn", "HOME": "/"}


REFUSALS = {
    "a kind that is not built": (
        "--port 80 vision-plain -m x",
        {},
        "vision-plain .vision models. is not built yet: this version serves plain, gguf, ggml",
    ),
    "another": (
        "speculative -m x -d y -n 5",
        {},
        "speculative .speculative decoding. is not built",
    ),
    "and another": ("x-lora-plain -m x -x y.json", {}, "x-lora-plain .X-LoRA adapters. is not"),
    "no kind at all": ("serve vision -m x", {}, "'vision' is not expected here"),
    "a seed of the server": (
        "--seed 1 plain -m x",
        {},
        "unknown flag --seed: give `seed` in a req",
    ),
    "the same, short": ("-s 1 plain -m x", {}, "unknown flag -s: give `seed` in a request"),
    "a head ratio of nothing": ("ggml -m x -g 0", {}, "--gqa '0': Expected `int` >= 1"),
    "a word too many": ("serve plain gguf -m x", {}, "'gguf' is not expected here"),
    "an unknown flag": ("plain -m x --lora q", {}, "unknown flag --lora; see `tramontane serve"),
    "an unknown flag before the kind": ("--lora q plain -m x", {}, "unknown flag --lora"),
    "a flag misspelt": ("--prot 80", {}, r"unknown flag --prot \(did you mean --port\?\)"),
    "a flag cut short": ("--max-seq 80", {}, "unknown flag --max-seq"),
    "a flag of another command": ("check -i x", {}, "unknown flag -i"),
    "a setting of another role": ("worker --port 80", {}, "unknown flag --port"),
    "no number": ("--port abc", {}, "--port 'abc': Expected `int`"),
    "a number out of range": ("--port 70000", {}, "--port '70000': Expected `int` <= 65535"),
    "a negative number": ("--max-seqs -1 serve", {}, "--max-seqs '-1': Expected `int` >= 1"),
    "no choice": ("--dtype int1", {}, "--dtype.*invalid choice: 'int1' .choose from 'auto', 'fl"),
    "no level": ("--log loud", {}, "--log.*'loud'"),
    "no memory size": ("--redis-maxmemory lots", {}, "--redis-maxmemory 'lots'"),
    "a value missing": ("plain -m", {}, "-m.*expected one argument"),
    "a switch with a value": ("--no-paged-attn=1", {}, "--no-paged-attn"),
    "a kind without a model": ("plain --port 80", {}, "plain needs a model: -m DIR_OR_REPO"),
    "a bad variable": ("serve", {"PORT": "x"}, "PORT='x'"),
    "a bad variable of the worker": (
        "serve",
        {"TRAMONTANE_MAX_SEQS": "0"},
        "TRAMONTANE_MAX_SEQS='0'",
    ),
    "an unknown variable": ("serve", {"TRAMONTANE_PROT": "1"}, "unknown setting TRAMONTANE_PROT"),
}


@pytest.mark.parametrize(("line", "environ", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_mistake_is_refused_with_one_sentence(line, environ, sentence) -> None:
    with pytest.raises(StartError, match=sentence) as caught:
        cli.parse(line.split(), environ)
    assert "\n" not in str(caught.value)


def test_a_value_of_a_later_flag_may_be_a_negative_number() -> None:
    values = cli.parse(["run", "-m", "dir", "-i", "x", "--temperature", "-1"], {}).values
    assert values.temperature == -1


def tramontane(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_a_refusal_is_one_line_on_stderr_and_status_2() -> None:
    result = tramontane("--prot", "1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "tramontane: unknown flag --prot (did you mean --port?); see `tramontane serve --help`"
    ]


def test_version_and_help_answer_with_status_0() -> None:
    version, usage, flags = (
        tramontane("--version"),
        tramontane("--help"),
        tramontane("serve", "--help"),
    )
    assert version.stdout.startswith("tramontane 0.")
    assert "serve [KIND]" in usage.stdout
    assert "TRAMONTANE_MAX_SEQS" in flags.stdout
    assert [version.returncode, usage.returncode, flags.returncode] == [0, 0, 0]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--isq", "Q4"], "ISQ type Q4 unknown, choose one of `2`, `3`"),
        (["--isq", "4", "--imatrix", "/no/such.dat"], "the imatrix /no/such.dat is not there"),
        (["--imatrix", "/no/such.dat"], "without --isq there is no use for an imatrix"),
        (["--topology", "/no/such.yml"], "the topology /no/such.yml cannot be read"),
    ],
)
@pytest.mark.parametrize("command", [["run", "-i", "x"], ["check"]], ids=lambda words: words[0])
def test_what_isq_cannot_do_is_refused_before_a_model_is_looked_for(
    command, flags, sentence, capsys
) -> None:
    assert cli.main([*command, "-m", "/no/such/model", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tramontane: {sentence}")
    assert error.count("\n") == 1
