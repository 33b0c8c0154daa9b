"""The shipped files: present, small, and what other programs that read this layout expect."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import LlamaConfig, PreTrainedTokenizerBase

from engine.builtin.network import Shape
from engine.builtin.tokens import ASSISTANT, BOS, END, SYSTEM, USER

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
CHATS = {
    "one question": [{"role": "user", "content": "Hello"}],
    "system": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": " spaces \n\n kept "},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "{{ not a template }} 你好"},
    ],
}
TEXTS = (
    "Hello, world!",
    " a  b\t\n\n c",
    "2+2=4 and 1024",
    "你好世界",
    "naïve café 🌍👩‍🚀",
    "\x00\x7f",
    "",
)


def names(weights: safe_open) -> list[str]:
    return list(weights.keys())


def plain_render(chat: list[dict[str, str]]) -> str:
    return BOS + "".join(f"<|{m['role']}|>{m['content']}{END}" for m in chat) + ASSISTANT


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_layout_is_there(model_dir: Path, name: str):
    assert (model_dir / name).is_file()


def test_the_folder_stays_under_6_mb(model_dir: Path):
    sizes = [p.stat().st_size for p in model_dir.rglob("*") if "__pycache__" not in p.parts]
    assert sum(sizes) < 6_000_000


def test_the_model_has_at_most_3_million_parameters_in_two_bytes_each(model_dir: Path):
    num_parameters = 0
    with safe_open(model_dir / "model.safetensors", "pt") as weights:
        for name in names(weights):
            tensor = weights.get_slice(name)
            assert tensor.get_dtype() == "F16"
            num_parameters += weights.get_tensor(name).numel()
    assert 2_000_000 < num_parameters <= 3_000_000


def test_config_is_what_transformers_takes_it_for(model_dir: Path):
    config, shape = LlamaConfig.from_pretrained(model_dir), Shape()
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.num_key_value_heads == shape.num_kv_heads < config.num_attention_heads
    assert (config.hidden_size, config.num_hidden_layers) == (shape.hidden_size, shape.num_layers)
    assert config.head_dim == shape.head_dim
    assert config.max_position_embeddings == 1024
    assert config.tie_word_embeddings


def test_rows_suit_every_block_format_of_gguf():
    assert Shape.hidden_size % 256 == Shape.intermediate_size % 256 == 0


def test_token_ids_in_the_configs_are_those_of_the_tokenizer(
    model_dir: Path, hf_tokenizer: PreTrainedTokenizerBase
):
    config = json.loads((model_dir / "config.json").read_text())
    generation = json.loads((model_dir / "generation_config.json").read_text())
    bos_id, end_id = (hf_tokenizer.convert_tokens_to_ids(token) for token in (BOS, END))
    assert (config["bos_token_id"], config["eos_token_id"]) == (bos_id, end_id)
    assert generation["eos_token_id"] == [end_id]
    assert (hf_tokenizer.bos_token_id, hf_tokenizer.eos_token_id) == (bos_id, end_id)
    assert len(hf_tokenizer) == config["vocab_size"]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_any_text_survives_the_tokenizer(hf_tokenizer: PreTrainedTokenizerBase, text: str):
    ids = hf_tokenizer.encode(text, add_special_tokens=False)
    assert hf_tokenizer.decode(ids) == text


def test_plain_text_begins_with_bos(hf_tokenizer: PreTrainedTokenizerBase):
    assert hf_tokenizer.encode("Once upon a time")[0] == hf_tokenizer.bos_token_id


def test_each_role_is_one_token(hf_tokenizer: PreTrainedTokenizerBase):
    for token in (BOS, END, SYSTEM, USER, ASSISTANT):
        assert len(hf_tokenizer.encode(token, add_special_tokens=False)) == 1


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_the_chat_template_renders_as_the_model_was_trained(
    hf_tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]
):
    rendered = hf_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == plain_render(chat)


def test_the_chat_template_takes_content_in_parts(hf_tokenizer: PreTrainedTokenizerBase):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    chat: Any = [{"role": "user", "content": parts}]
    rendered = hf_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == plain_render(CHATS["one question"])


def test_the_chat_template_refuses_an_unknown_role(hf_tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(Exception, match="unknown role: wizard"):
        hf_tokenizer.apply_chat_template([{"role": "wizard", "content": "x"}], tokenize=False)


def test_the_readme_states_the_size_and_training_time_of_the_shipped_model(model_dir: Path):
    text = (model_dir / "README.md").read_text()
    stated = re.search(r"([\d,]+) parameters", text)
    assert stated
    with safe_open(model_dir / "model.safetensors", "pt") as weights:
        num_parameters = sum(weights.get_tensor(name).numel() for name in names(weights))
    assert int(stated[1].replace(",", "")) == num_parameters
    minutes = re.search(r"([\d.]+) CPU minutes", text)
    assert minutes
    assert float(minutes[1]) <= 15
