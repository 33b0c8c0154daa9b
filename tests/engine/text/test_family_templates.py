"""Every family's template gives transformers' prompt, and the bundled ones give the families'."""

import time

import pytest
import tokenizers
import transformers

from engine.errors import InvalidInput
from engine.text.bundled_templates import NAMES, pick_bundled, read_bundled
from engine.text.chat_template import ChatTemplate
from engine.text.decoding import BYTE_LEVEL, sentencepiece_rule
from engine.text.tokenizer import Tokenizer
from tests.engine.text import published_templates as published
from tests.engine.text.published_templates import PUBLISHED

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TURNS = [
    {"role": "user", "content": " Hi <b> & 'you'\n"},
    {"role": "assistant", "content": " Hello, {{ 7 * 7 }} "},
    {"role": "user", "content": "你好"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = {"one": TURNS[:1], "turns": TURNS, "system": [SYSTEM, *TURNS[:1]], "all": [SYSTEM, *TURNS]}
OPTIONS = {
    "plain": {},
    "no prompt": {"add_generation_prompt": False},
    "not thinking": {"enable_thinking": False, "reasoning_effort": "high"},
    "thinking": {"enable_thinking": True},
}


@pytest.fixture(scope="module")
def reference():
    """What transformers makes of a template and messages; None where it refuses them."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS)

    def render(source, messages, **options):
        options = {"add_generation_prompt": True} | options
        try:
            return tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, **options
            )
        except Exception:
            return None

    return render


def rendered(source, messages, **options):
    try:
        return ChatTemplate(source, TOKENS).render(messages, now_s=time.time(), **options)
    except InvalidInput:
        return None


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("source", PUBLISHED.values(), ids=PUBLISHED)
def test_the_prompt_is_that_of_transformers(reference, source, messages, options):
    expected = reference(source, messages, **options)
    assert rendered(source, messages, **options) == expected
    assert expected or (source == published.MISTRAL_V1 and messages[0]["role"] == "system")


FAMILIES = {
    "chatml": published.CHATML,
    "llama2": published.LLAMA2,
    "llama3": published.LLAMA3,
    "mistral-v1": published.MISTRAL_V1,
    "mistral-v3": published.MISTRAL_V3,
    "mistral-tekken": published.MISTRAL_TEKKEN,
    "gemma": published.GEMMA3,
    "phi3": published.PHI3,
}


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize(("name", "source"), FAMILIES.items(), ids=FAMILIES)
def test_a_bundled_template_gives_the_prompt_of_its_family(reference, name, source, messages):
    expected = reference(source, messages)
    if (
        expected is None
    ):  # the first Mistral refuses a system message; here it goes before the first
        assert rendered(read_bundled(name), messages).startswith("<s>[INST] Be brief.\n\n Hi")
    else:
        assert rendered(read_bundled(name), messages) == expected


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
def test_zephyr_s_prompt_goes_to_the_line_where_the_answer_begins(reference, messages):
    assert rendered(read_bundled("zephyr"), messages) == reference(published.ZEPHYR, messages)


def test_vicuna_s_prompt_is_its_conversation_in_one_line():
    assert rendered(read_bundled("vicuna"), CHATS["all"]) == (
        "<s>Be brief. USER:  Hi <b> & 'you'\n ASSISTANT:  Hello, {{ 7 * 7 }} </s>"
        "USER: 你好 ASSISTANT:"
    )
    assert "gives helpful, detailed, and polite answers" in rendered(
        read_bundled("vicuna"), TURNS[:1]
    )


@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if n not in ("chatml", "llama3", "phi3", "zephyr", "qwen3-reranker")],
)
def test_families_of_alternating_turns_refuse_others(name):
    with pytest.raises(InvalidInput, match="must alternate"):
        ChatTemplate(read_bundled(name), TOKENS).render([TURNS[0], TURNS[0]])


def vocabulary(*special: str, is_byte_level: bool = False) -> Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({}, []))
    backend.add_special_tokens(list(special))
    rule = BYTE_LEVEL if is_byte_level else sentencepiece_rule(True)
    return Tokenizer(backend, rule, {})


CHOICES = {
    "qwen3-reranker": (vocabulary("<|im_start|>", "<|im_end|>"), "Qwen3-Reranker-0.6B"),
    "chatml": (vocabulary("<|im_start|>", "<|im_end|>"), "m"),
    "llama3": (vocabulary("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "m"),
    "gemma": (vocabulary("<start_of_turn>", "<end_of_turn>"), "m"),
    "phi3": (vocabulary("<|user|>", "<|assistant|>", "<|end|>"), "m"),
    "mistral-v3": (vocabulary("[INST]", "[/INST]"), "m"),
    "mistral-tekken": (vocabulary("[INST]", "[/INST]", is_byte_level=True), "m"),
    "zephyr": (vocabulary("<s>", "</s>"), "TinyLlama-1.1B-Chat-v1.0"),
    "vicuna": (vocabulary("<s>", "</s>"), "vicuna-7b-v1.5.Q4_K_M"),
    "llama2": (vocabulary("<s>", "</s>"), "llama-2-7b-chat.ggmlv3.q4_0"),
    "mistral-v1": (vocabulary("<s>", "</s>"), "Mixtral-8x7B-Instruct-v0.1"),
}


def test_each_bundled_template_has_a_model_that_it_suits():
    assert set(CHOICES) == set(NAMES)


@pytest.mark.parametrize("name", CHOICES)
def test_special_tokens_and_name_choose_a_bundled_template_said_in_one_line(name, caplog):
    tokenizer, model_name = CHOICES[name]
    with caplog.at_level("INFO"):
        assert pick_bundled(tokenizer, model_name) == read_bundled(name)
    (record,) = caplog.records
    assert name in record.getMessage()
    assert model_name in record.getMessage()


@pytest.mark.parametrize(
    ("tokenizer", "model_name"),
    [
        (vocabulary("<s>", "</s>"), "llama-2-7b"),
        (vocabulary("<s>"), "llama-2-7b-chat"),
        (vocabulary("<|im_start|>"), "m"),
        (vocabulary("<|user|>", "<|assistant|>"), "m"),
    ],
    ids=["base", "no end", "half of chatml", "no end of turn"],
)
def test_a_model_without_what_a_template_needs_gets_none(tokenizer, model_name):
    assert pick_bundled(tokenizer, model_name) is None
