"""A model's text side is put together from its files, in the order of precedence."""

import json
import subprocess
import sys

import gguf
import msgspec
import pytest

from engine.errors import LoadError
from engine.text.detokenizer import Detokenizer
from engine.text.generation_config import GenerationDefaults
from engine.text.template_files import TemplateChoice
from engine.text.text_model import load_text_model
from engine.weights import ggml_vocab
from engine.weights.files import ModelFiles


@pytest.fixture
def plain(tmp_path, gpt2):
    """Writes a Hugging Face directory from file names and contents."""

    def make(**contents) -> ModelFiles:
        gpt2.save(str(tmp_path / "tokenizer.json"))
        for stem, content in contents.items():
            (tmp_path / f"{stem}.json").write_text(json.dumps(content))
        return ModelFiles(kind="plain", name="m", directory=tmp_path, weights=())

    return make


@pytest.fixture
def packed(tmp_path):
    """Writes a GGUF file with the given metadata."""

    def make(metadata) -> ModelFiles:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in metadata.items():
            add_value(writer, key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return ModelFiles(kind="gguf", name="m", directory=tmp_path, weights=(path,))

    return make


def add_value(writer, key, value):
    kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
    kinds |= {float: writer.add_float32, list: writer.add_array}
    kinds[type(value)](key, value)


TEMPLATES = {
    "chat_template.jinja": "from jinja",
    "tokenizer_config.json": json.dumps({"chat_template": "from config"}),
    "chat_template.json": json.dumps({"chat_template": "from json"}),
}


@pytest.mark.parametrize("present", range(4))
def test_the_first_template_found_is_used(packed, sentencepiece, present):
    metadata = sentencepiece.metadata() | {"tokenizer.chat_template": "from gguf"}
    files = packed(metadata)
    expected = ["from jinja", "from config", "from json", "from gguf"][present]
    for name, text in list(TEMPLATES.items())[present:]:
        (files.directory / name).write_text(text)
    template = load_text_model(files).chat_template
    assert template is not None
    assert template.render([]) == expected


def test_a_model_without_a_template_has_none_unless_a_bundled_one_suits(
    plain, packed, sentencepiece, caplog
):
    assert load_text_model(packed(sentencepiece.metadata())).chat_template is None
    with caplog.at_level("INFO"):
        text = load_text_model(plain())
    assert text.chat_template is not None
    prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert text.chat_template.render([{"role": "user", "content": "a"}]) == prompt
    assert text.tokenizer.token_to_id("<|im_end|>") in text.tokenizer.eos_ids
    assert "chatml" in caplog.text


def test_of_named_templates_default_and_tool_use_serve(plain):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    template = load_text_model(plain(tokenizer_config={"chat_template": named})).chat_template
    assert template is not None
    assert (template.render([]), template.render([], tools=[{}])) == ("d", "t")


def test_named_templates_without_a_default_are_refused(plain):
    named = [{"name": "a", "template": ""}, {"name": "b", "template": ""}]
    with pytest.raises(LoadError, match="a, b, and no default"):
        load_text_model(plain(tokenizer_config={"chat_template": named}))


def test_a_single_named_template_serves(plain):
    named = [{"name": "a", "template": "only"}]
    template = load_text_model(plain(tokenizer_config={"chat_template": named})).chat_template
    assert template is not None
    assert template.render([]) == "only"


def test_the_template_sees_the_models_special_tokens(plain):
    config = {"chat_template": "{{ bos_token }}|{{ unk_token }}|", "bos_token": "<s>"}
    template = load_text_model(plain(tokenizer_config=config)).chat_template
    assert template is not None
    assert template.render([]) == "<s>||"


def rendered(files, **choice) -> str:
    template = load_text_model(files, TemplateChoice(**choice)).chat_template
    assert template is not None
    return template.render([{"role": "user", "content": "a"}])


def test_the_users_templates_go_before_the_models_and_explicit_before_given(plain, tmp_path):
    files = plain(tokenizer_config={"chat_template": "model"})
    (tmp_path / "a.jinja").write_text("explicit")
    (tmp_path / "b.jinja").write_text("given")
    explicit, given = str(tmp_path / "a.jinja"), str(tmp_path / "b.jinja")
    assert rendered(files) == "model"
    assert rendered(files, given=given) == "given"
    assert rendered(files, explicit=explicit, given=given) == "explicit"


def test_a_users_template_may_be_its_text_or_a_bundled_ones_name(plain):
    files = plain(tokenizer_config={"chat_template": "model", "eos_token": "</s>"})
    assert rendered(files, given="<{{ messages[0].content }}>") == "<a>"
    assert rendered(files, explicit="zephyr") == "<|user|>\na</s>\n<|assistant|>\n"


def test_a_users_json_brings_tokens_of_its_own(plain, tmp_path, gpt2):
    files = plain(tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"})
    template = "{{ bos_token }}{{ eos_token }}{{ unk_token }}"
    own = {"chat_template": template, "eos_token": "<|im_end|>", "unk_token": None}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    choice = TemplateChoice(given=str(tmp_path / "mine.json"))
    text = load_text_model(files, choice)
    assert text.chat_template is not None
    assert text.chat_template.render([]) == "<s><|im_end|>"
    assert text.tokenizer.eos_ids == {gpt2.token_to_id(t) for t in ("</s>", "<|im_end|>")}


def test_a_users_json_with_named_templates_has_a_variant_for_tools(plain, tmp_path):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    (tmp_path / "mine.json").write_text(json.dumps({"chat_template": named}))
    choice = TemplateChoice(explicit=str(tmp_path / "mine.json"))
    template = load_text_model(plain(), choice).chat_template
    assert template is not None
    assert (template.render([]), template.render([], tools=[{}])) == ("d", "t")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"given": "nowhere.jinja"}, "--chat-template nowhere.jinja is no file; .*chatml, llama3"),
        ({"explicit": "nowhere.json"}, "--jinja-explicit nowhere.json is no file"),
        ({"given": "~nobody-of-this-name/a.jinja"}, "is no file"),
        ({"given": "a" * 5000}, "is no file"),
        ({"given": "{% for %}"}, "does not compile"),
    ],
    ids=["missing", "missing json", "unknown user", "too long", "syntax"],
)
def test_a_users_template_that_is_none_is_refused(plain, choice, message):
    with pytest.raises(LoadError, match=message):
        rendered(plain(), **choice)


def test_a_users_json_without_a_template_is_refused(plain, tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(LoadError, match="has no chat_template"):
        rendered(plain(), given=str(tmp_path / "mine.json"))


@pytest.fixture
def own_tokenizer(tmp_path, gpt2):
    """A directory with a tokenizer, a template and sampling values."""
    directory = tmp_path / "own"
    directory.mkdir()
    gpt2.save(str(directory / "tokenizer.json"))
    config = {"chat_template": "own {{ eos_token }}", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text('{"temperature": 0.25, "eos_token_id": 5}')
    return directory


def test_a_tokenizer_directory_of_its_own_goes_before_the_weights_files(
    packed, sentencepiece, own_tokenizer, gpt2
):
    files = packed(sentencepiece.metadata() | {"tokenizer.chat_template": "from gguf"})
    text = load_text_model(msgspec.structs.replace(files, tokenizer=own_tokenizer))
    assert text.tokenizer.encode("they're") == gpt2.encode("they're").ids
    assert text.chat_template is not None
    assert text.chat_template.render([]) == "own </s>"
    assert text.defaults.temperature == 0.25
    assert text.tokenizer.eos_ids == {gpt2.token_to_id("</s>"), 5}


def test_what_a_tokenizer_directory_is_silent_on_the_weights_say(
    packed, sentencepiece, own_tokenizer
):
    files = packed(sentencepiece.metadata() | {"tokenizer.chat_template": "from gguf"})
    (own_tokenizer / "tokenizer_config.json").write_text("{}")
    assert rendered(msgspec.structs.replace(files, tokenizer=own_tokenizer)) == "from gguf"


def ggml_files(directory, **changes) -> ModelFiles:
    name = "llama-2-7b-chat.ggmlv3"
    files = ModelFiles(kind="ggml", name=name, directory=directory, weights=(directory / "m.bin",))
    return msgspec.structs.replace(files, **changes)


def test_a_ggml_file_gives_the_vocabulary_and_its_name_the_template(
    tmp_path, monkeypatch, sentencepiece, llama
):
    def read_ggml_vocab(path):
        assert path == tmp_path / "m.bin"
        names = ("model", "tokens", "scores")
        return {
            f"tokenizer.ggml.{n}": sentencepiece.metadata()[f"tokenizer.ggml.{n}"] for n in names
        }

    monkeypatch.setattr(ggml_vocab, "read_ggml_vocab", read_ggml_vocab)
    text = load_text_model(ggml_files(tmp_path))
    assert text.tokenizer.encode("the quick") == llama.encode("the quick").ids
    assert text.chat_template is not None
    assert text.chat_template.render([{"role": "user", "content": "a"}]) == "<s>[INST] a [/INST]"


def test_a_ggml_file_with_a_tokenizer_of_its_own_is_not_read_for_text(tmp_path, own_tokenizer):
    assert rendered(ggml_files(tmp_path, tokenizer=own_tokenizer)) == "own </s>"


GENERATION = {
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.01,
    "repetition_penalty": 1.05,
    "do_sample": True,
    "transformers_version": "4",
}


def test_defaults_are_those_of_generation_config(plain):
    defaults = load_text_model(plain(generation_config=GENERATION)).defaults
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    assert [getattr(defaults, name) for name in names] == [0.6, 20, 0.95, 0.01, 1.05]


def test_suppressed_tokens_and_no_limit_of_length_are_read(plain):
    config = {"suppress_tokens": [3, 4], "max_new_tokens": 20, "max_length": 20}
    defaults = load_text_model(plain(generation_config=config)).defaults
    assert defaults == GenerationDefaults(suppress_tokens=[3, 4])


@pytest.mark.parametrize(
    ("config", "temperature"),
    [({}, None), ({"temperature": 0.5}, 0.5), ({"temperature": 0.5, "do_sample": False}, 0.0)],
    ids=["silent", "silent on sampling", "greedy"],
)
def test_greedy_is_temperature_zero_only_if_it_is_said(plain, config, temperature):
    assert load_text_model(plain(generation_config=config)).defaults.temperature == temperature


def test_a_gguf_files_own_sampling_values_are_defaults(packed, sentencepiece):
    keys = {"general.sampling.temp": 0.5, "general.sampling.top_k": 7}
    defaults = load_text_model(packed(sentencepiece.metadata() | keys)).defaults
    assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.5, 7, None)


@pytest.mark.parametrize("keys", [{"top_p": "much"}, {"min_p": 7.0}], ids=["type", "range"])
def test_a_gguf_files_bad_sampling_value_is_refused(packed, sentencepiece, keys):
    values = {f"general.sampling.{key}": value for key, value in keys.items()}
    with pytest.raises(LoadError, match=rf"general\.sampling.*{next(iter(keys))}"):
        load_text_model(packed(sentencepiece.metadata() | values))


def test_end_ids_are_the_union_of_what_the_files_say(plain, gpt2):
    end, start = gpt2.token_to_id("<|im_end|>"), gpt2.token_to_id("<|im_start|>")
    config = {"eos_token": "</s>", "chat_template": "<|im_end|>"}
    files = plain(tokenizer_config=config, generation_config={"eos_token_id": [start]})
    assert load_text_model(files).tokenizer.eos_ids == {gpt2.token_to_id("</s>"), end, start}


def test_a_turn_end_outside_the_template_does_not_end_answers(plain, gpt2):
    files = plain(tokenizer_config={"eos_token": "</s>", "chat_template": "x"})
    assert load_text_model(files).tokenizer.eos_ids == {gpt2.token_to_id("</s>")}


def test_config_json_gives_end_ids_only_without_a_generation_config(plain):
    template = {"chat_template": "x"}
    files = plain(config={"eos_token_id": 7}, tokenizer_config=template)
    assert load_text_model(files).tokenizer.eos_ids == {7}
    files = plain(config={"eos_token_id": 7}, generation_config={"eos_token_id": 8})
    assert load_text_model(files).tokenizer.eos_ids == {8}


NONSENSE = [{"min_p": 1.5}, {"top_p": -0.1}, {"temperature": -1}, {"repetition_penalty": 0}]


@pytest.mark.parametrize("config", [{"top_k": "many"}, {"eos_token_id": "x"}, [], *NONSENSE])
def test_a_damaged_generation_config_is_refused(plain, config):
    with pytest.raises(LoadError, match=r"generation_config\.json cannot be used"):
        load_text_model(plain(generation_config=config))


def test_a_gguf_file_is_enough_for_text_and_back(packed, sentencepiece, llama):
    tokenizer = load_text_model(packed(sentencepiece.metadata())).tokenizer
    text = "the quick 世界 Ω <s>"
    ids = tokenizer.encode(text)
    assert ids == llama.encode(text).ids
    assert Detokenizer(tokenizer).push(ids) == llama.decode(ids)


def test_a_byte_level_gguf_file_is_enough_for_text_and_back(packed, gpt2, byte_level_metadata):
    tokenizer = load_text_model(packed(byte_level_metadata(gpt2, "gpt-2"))).tokenizer
    text = "they're 世界 <|im_end|>"
    assert tokenizer.encode(text) == gpt2.encode(text).ids


def test_the_text_side_never_loads_torch():
    code = "import sys, engine.text.text_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
