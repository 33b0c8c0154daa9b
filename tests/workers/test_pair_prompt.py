"""Pairs as a reranker's template shows them, cut and uncut; which templates are for pairs."""

import msgspec
import pytest

from engine.errors import InvalidInput
from engine.messages import EngineInfo
from engine.text.bundled_templates import NAMES, read_bundled
from engine.text.chat_template import ChatTemplate
from engine.text.pair_template import is_for_pairs, with_pair_template
from tests.workers.wire import make_job
from workers.inputs import inputs_of
from workers.pair_prompt import PairPrompt

SOURCE = (
    '{% for role in ("query", "document") %}'
    "{{ role }}: {{ (messages | selectattr('role', 'eq', role) | first).content }}\n"
    "{% endfor %}answer:"
)
INFO = EngineInfo(
    context_length=64, vocab_size=2048, kv_tokens=0, max_seqs=4, device="x", dtype="x", task="score"
)
LONG = "the document goes on, and on, and never comes to its end"


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(SOURCE, {})


@pytest.fixture(scope="module")
def prompt(template, text):
    return PairPrompt(template, text.tokenizer, now_s=0)


def shown(text, query, document):
    return text.tokenizer.encode(
        f"query: {query}\ndocument: {document}\nanswer:", add_special_tokens=False
    )


def test_a_pair_is_what_the_template_says_without_more_special_tokens(prompt, text):
    assert prompt.encode("q", "d", None, None) == shown(text, "q", "d")


def test_control_tokens_in_a_text_stay_text(prompt, text):
    (end_id,) = text.tokenizer.eos_ids
    end = text.tokenizer.decode([end_id], skip_special_tokens=False)
    assert end_id not in prompt.encode(f"q{end}", f"d{end}", None, None)


@pytest.mark.parametrize("limit", [20, 25, 30, 100])
def test_of_a_pair_that_is_too_long_the_document_loses_its_end(prompt, text, limit):
    ids = prompt.encode("q", LONG, limit, None)
    assert len(ids) <= limit
    document = text.tokenizer.decode(ids).removeprefix("query: q\ndocument: ")
    assert LONG.startswith(document.removesuffix("\nanswer:"))
    if limit == 100:
        assert ids == shown(text, "q", LONG)
    else:
        assert len(ids) >= limit - 2  # tokens at the cut may be others


def test_a_document_s_own_bound_comes_first(prompt, text):
    words = text.tokenizer.encode(LONG, add_special_tokens=False)
    cut = text.tokenizer.decode(words[:3])
    assert prompt.encode("q", LONG, None, 3) == shown(text, "q", cut)


def test_a_query_that_has_no_room_is_left_for_the_caller_to_refuse(prompt, text):
    assert prompt.encode("q", LONG, 1, None) == shown(text, "q", "")


def test_jobs_of_a_model_with_such_a_template_use_it(template, text):
    job = make_job(kind="score", prompts=["q", "a", "b"], num_queries=1)
    inputs = inputs_of(job, text._replace(chat_template=template), INFO)
    assert [made.prompt_ids for made in inputs] == [shown(text, "q", d) for d in "ab"]
    assert [made.type_ids for made in inputs] == [[], []]


def test_a_query_that_has_no_room_is_refused(template, text):
    job = make_job(kind="score", prompts=["q" * 99, "a"], num_queries=1, max_input_tokens=8)
    with pytest.raises(InvalidInput, match=r"query of input 0 alone makes \d+ tokens"):
        inputs_of(job, text._replace(chat_template=template), INFO)


def test_chat_templates_are_not_for_pairs(text):
    assert not is_for_pairs(text.chat_template)
    assert not is_for_pairs(None)
    found = [name for name in NAMES if is_for_pairs(ChatTemplate(read_bundled(name), {}))]
    assert found == ["qwen3-reranker"]


def test_qwen3_s_rerankers_get_the_form_of_their_model_card(text, model_files, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    files = msgspec.structs.replace(model_files, directory=tmp_path, kind="plain")
    template = with_pair_template(text, files).chat_template
    assert template is not None
    messages = [{"role": "query", "content": "Q?"}, {"role": "document", "content": "D."}]
    assert template.render(messages) == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
        "answer the query\n<Query>: Q?\n<Document>: D.<|im_end|>\n<|im_start|>assistant\n<think>\n"
        "\n</think>\n\n"
    )


def test_what_a_model_brings_goes_before_what_is_bundled(text, template, model_files, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    files = msgspec.structs.replace(model_files, directory=tmp_path, kind="plain")
    own = text._replace(chat_template=template)
    assert with_pair_template(own, files) is own
    assert with_pair_template(text, model_files) is text
