"""A Hugging Face directory gives the ids that transformers gives for it."""

import json
import threading
import time

import pytest
import transformers
from hypothesis import HealthCheck, given, settings

from engine.errors import InvalidInput, LoadError
from engine.text.hf_tokenizer import load_tokenizer

relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture
def write(tmp_path):
    """Writes a model directory's tokenizer files."""

    def write_files(backend, config=None, special_map=None):
        backend.save(str(tmp_path / "tokenizer.json"))
        if config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        if special_map is not None:
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(special_map))
        return tmp_path

    return write_files


def reference(directory):
    return transformers.PreTrainedTokenizerFast.from_pretrained(directory)


CONFIGS = {
    "no config": None,
    "names": NAMES,
    "an older wish for bos and eos": NAMES | {"add_bos_token": True, "add_eos_token": True},
    "an older wish for neither": NAMES | {"add_bos_token": False, "add_eos_token": False},
    "names as objects": {
        "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": False},
        "additional_special_tokens": ["<tool_call>"],
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ids_are_those_of_transformers(request, write, any_text, config, kind):
    directory = write(request.getfixturevalue(kind), config)
    tokenizer, expected = load_tokenizer(directory), reference(directory)

    @settings(relaxed, max_examples=20)
    @given(any_text)
    def check(text: str) -> None:
        assert tokenizer.encode(text) == expected.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected.encode(
            text, add_special_tokens=False
        )

    check()


def test_a_named_token_is_special_even_if_tokenizer_json_says_text(write, gpt2):
    directory = write(gpt2, NAMES | {"eos_token": "<tool_call>"})
    tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode("a<tool_call>")
    assert tokenizer.decode(ids) == reference(directory).decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.eos_ids == {gpt2.token_to_id("<tool_call>")}


def test_a_named_token_outside_the_vocabulary_stays_text(write, gpt2):
    tokenizer = load_tokenizer(write(gpt2, NAMES | {"eos_token": "<|nowhere|>"}))
    assert tokenizer.eos_ids == frozenset()
    assert tokenizer.vocab_size == gpt2.get_vocab_size()
    assert tokenizer.decode(tokenizer.encode("a<|nowhere|>")) == "a<|nowhere|>"


def test_names_may_stand_in_special_tokens_map(write, gpt2):
    tokenizer = load_tokenizer(write(gpt2, {"bos_token": "<s>"}, special_map=NAMES))
    assert tokenizer.special_tokens == NAMES
    assert tokenizer.bos_id == gpt2.token_to_id("<s>")


def test_truncation_and_padding_of_the_file_are_not_applied(write, llama):
    import tokenizers

    cutting = tokenizers.Tokenizer.from_str(llama.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=8)
    tokenizer = load_tokenizer(write(cutting))
    assert tokenizer.encode("the quick brown fox") == llama.encode("the quick brown fox").ids


def test_half_a_surrogate_pair_is_bad_input(write, gpt2):
    with pytest.raises(InvalidInput, match="surrogate"):
        load_tokenizer(write(gpt2)).encode("\ud83d")


def test_a_missing_tokenizer_says_what_to_put_where(tmp_path):
    with pytest.raises(LoadError, match=r"tokenizer\.json does not exist; put"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "BPE"}}', "\x00"])
def test_a_damaged_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(LoadError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_damaged_config_is_refused(write, gpt2):
    directory = write(gpt2)
    (directory / "tokenizer_config.json").write_text("{nonsense")
    with pytest.raises(LoadError, match=r"tokenizer_config\.json cannot be used"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": [1]},
        {"additional_special_tokens": 5},
        {"extra_special_tokens": "<s>"},
    ],
    ids=lambda config: next(iter(config)),
)
def test_a_config_whose_tokens_are_no_list_is_refused(write, gpt2, config):
    with pytest.raises(LoadError, match=rf"tokenizer_config\.json .* `\$\.{next(iter(config))}`"):
        load_tokenizer(write(gpt2, config))


DECODERS = {
    "none": None,
    "ctc": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    "strip without fuse": {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    "replace by regex": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"},
}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_a_decoder_that_cannot_run_token_by_token_is_refused(tmp_path, gpt2, decoder):
    document = json.loads(gpt2.to_str()) | {"decoder": decoder}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(LoadError, match="decoder"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_other_threads_run_while_a_long_text_is_translated(write, gpt2, direction):
    tokenizer = load_tokenizer(write(gpt2))
    text = "hello world " * 100_000
    given = text if direction == "encode" else tokenizer.encode(text)
    longest_s, is_over = 0.0, threading.Event()

    def watch():
        nonlocal longest_s
        while not is_over.is_set():
            start = time.perf_counter()
            time.sleep(0.001)
            longest_s = max(longest_s, time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    getattr(tokenizer, direction)(given)
    took_s = time.perf_counter() - start
    is_over.set()
    watcher.join()
    assert longest_s < took_s / 2
