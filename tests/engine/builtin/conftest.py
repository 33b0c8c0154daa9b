"""Fixtures that read the shipped model with transformers, an implementation that is not ours."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

import engine.builtin

MODEL_DIR = Path(engine.builtin.__file__).parent
Chat = list[dict[str, str]]
Answer = Callable[..., tuple[str, int, bool]]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    return MODEL_DIR


@pytest.fixture(scope="session")
def _quiet_transformers() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def hf_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="session")
def answer(hf_tokenizer: PreTrainedTokenizerBase, _quiet_transformers: None) -> Answer:
    """answer(*messages, max_tokens) -> (text, number of tokens, did it end with its end token)."""
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()

    def greedy(*messages: str, system: str = "", max_tokens: int = 200) -> tuple[str, int, bool]:
        roles = ("user", "assistant")
        chat = [{"role": "system", "content": system}] if system else []
        chat += [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
        text = hf_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt_ids = torch.tensor([hf_tokenizer.encode(str(text), add_special_tokens=False)])
        with torch.inference_mode():
            output = model.generate(
                prompt_ids, max_new_tokens=max_tokens, do_sample=False, temperature=None
            )
        ids = output[0, prompt_ids.shape[1] :].tolist()
        reply = hf_tokenizer.decode(ids, skip_special_tokens=True)
        return str(reply), len(ids), ids[-1] == hf_tokenizer.eos_token_id

    return greedy
