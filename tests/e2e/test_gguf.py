"""The guide's command line with a GGUF file: the built-in model, converted, answers the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from transformers import LlamaForCausalLM

from tests.engine.models.gguf_files import write_gguf

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "engine" / "builtin"
QUESTIONS = ["What is Tramontane?", "你好", "Count to ten."]


def describe_tokenizer(writer: GGUFWriter) -> None:
    """What llama.cpp's converter writes of a byte-level BPE tokenizer and its chat template."""
    tokenizer = json.loads((BUILTIN / "tokenizer.json").read_text())
    names = json.loads((BUILTIN / "tokenizer_config.json").read_text())
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocab = tokenizer["model"]["vocab"] | added
    pieces = sorted(vocab, key=vocab.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(pieces)
    writer.add_token_types([TokenType.CONTROL if p in added else TokenType.NORMAL for p in pieces])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocab[names["bos_token"]])
    writer.add_eos_token_id(vocab[names["eos_token"]])
    writer.add_chat_template(names["chat_template"])


@pytest.fixture(scope="module")
def gguf_url(tmp_path_factory, unused_port, wait):
    directory = tmp_path_factory.mktemp("gguf")
    model = LlamaForCausalLM.from_pretrained(BUILTIN, dtype="float32")
    write_gguf(
        model, directory / "tiny.F16.gguf", GGMLQuantizationType.F16, describe=describe_tokenizer
    )
    command = ["--port", str(unused_port), "--host", "127.0.0.1", "gguf"]
    log = (directory / "log").open("wb+")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *command, "-m", str(directory), "-f", "tiny.F16.gguf"],
        cwd=ROOT,
        env={**os.environ, "TRAMONTANE_DATA_DIR": str(directory / "data")},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    wait(lambda: b"ready:" in (directory / "log").read_bytes(), "the ready line", 60)
    yield f"http://127.0.0.1:{unused_port}"
    process.terminate()
    assert process.wait(20) == 0
    log.close()


def ask(url, question):
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
    answer = httpx2.post(url + "/v1/chat/completions", json=body, timeout=30).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_gguf_file_answers_as_its_safetensors_do(api_url, gguf_url, question):
    assert ask(gguf_url, question) == ask(api_url, question)


def test_the_file_gives_the_model_its_name(gguf_url):
    (model,) = httpx2.get(gguf_url + "/v1/models").json()["data"]
    assert model["id"] == "tiny.F16"
