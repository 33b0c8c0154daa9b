"""From a job to the grammar of its answers."""

import json

import pytest

from engine.errors import InvalidInput
from engine.text.chat_template import ChatTemplate
from engine.text.gbnf import with_lark
from engine.text.grammar import make_matcher, make_vocabulary
from tests.workers.test_prepare import chat
from tests.workers.test_tools import WIDE
from tests.workers.wire import make_job
from workers.contract import Constraint
from workers.prepare import prepare

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
BEGUN = PLAIN + "{# </think> #}{% if add_generation_prompt %}<think>\n{% endif %}"
FREE = PLAIN + "{# <think> </think> #}"
SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


def nested(depth):
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def grammar_of(text, job):
    (plan,) = prepare(job, text, WIDE)
    return plan.params.grammar


@pytest.fixture
def allows(text):
    """Whether the grammar of a job allows an answer, as a whole."""
    vocabulary = make_vocabulary(text.tokenizer, WIDE.vocab_size).tokenizer

    def check(job, answer, template=None):
        model = text if template is None else text._replace(chat_template=template)
        matcher = make_matcher(vocabulary, with_lark(grammar_of(model, job)))
        ids = text.tokenizer.encode(answer, add_special_tokens=False)
        # a text may be cut into other tokens than those that the tokenizer would take
        is_taken = matcher.try_consume_tokens(ids) == len(ids)
        return is_taken and matcher.is_accepting()

    return check


def asked(kind, value=None):
    return make_job(constraint=Constraint(kind, value, "p"))


CASES = {
    "json_object": (asked("json_object"), '{"b": [1, null]}', "[1]"),
    "json_schema": (asked("json_schema", SCHEMA), '{"a": 1}', '{"a": 2}'),
    "a schema that is true": (asked("json_schema", True), "[1]", "a"),
    "regex": (asked("regex", r"a/b\/c\d+"), "a/b/c12", "a/b/c"),
    "choice": (asked("choice", ['say "no"\n', "ja"]), 'say "no"\n', "no"),
    "lark": (asked("lark", 'start: "a" /b+/'), "abb", "a"),
    "gbnf": (asked("gbnf", 'root ::= "a" [bc]+'), "abc", "a"),
    "lark where gbnf may be": (asked("gbnf", 'start: "a" /::=/'), "a::=", "a"),
    "llguidance": (
        asked("llguidance", {"grammars": [{"lark_grammar": "start: /a+/"}]}),
        "aaa",
        "b",
    ),
}


@pytest.mark.parametrize(("job", "good", "bad"), CASES.values(), ids=CASES)
def test_each_kind_allows_what_it_says(allows, job, good, bad):
    assert allows(job, good)
    assert not allows(job, bad)


def test_a_job_that_asks_for_nothing_has_no_grammar(text):
    assert grammar_of(text, make_job()) == ""
    assert grammar_of(text, chat(tools=[TOOL])) == ""


NO_GRAMMARS = {
    "llguidance": asked("llguidance", "["),
    "llguidance of nothing": asked("llguidance", {"grammars": []}),
    "half a character": asked("json_schema", {"const": "\ud800"}),
    "10 MB": asked("json_schema", {"enum": ["x" * 1000] * 10_000}),
    "nested deep": asked("json_schema", nested(900)),
}


@pytest.mark.parametrize("job", NO_GRAMMARS.values(), ids=NO_GRAMMARS)
def test_what_is_no_grammar_names_its_field(text, job):
    with pytest.raises(InvalidInput) as error:
        grammar_of(text, job)
    assert error.value.param == "p"


def test_a_tool_that_must_be_called_is(allows):
    job = chat(tools=[TOOL], must_call=True)
    assert allows(job, '{"name": "add", "arguments": {"a": 1}}')
    assert not allows(job, '{"name": "add", "arguments": {"a": 2}}')
    assert not allows(job, "In words.")


def test_the_arguments_of_a_strict_tool_fit_and_words_are_free(allows):
    loose = {"type": "function", "function": {"name": "tell", "parameters": SCHEMA}}
    job = chat(tools=[TOOL, loose], strict_tools=("add",))
    assert allows(job, "In words.")
    assert allows(job, '{"name": "add", "arguments": {"a": 1}}')
    assert not allows(job, '{"name": "add", "arguments": {"a": 2}}')
    assert allows(job, '{"name": "tell", "arguments": {"a": 2}}')


def test_an_answer_in_a_form_leaves_the_tools_to_be_called(allows):
    job = chat(tools=[TOOL], constraint=Constraint("regex", "(yes|no)", "p"))
    assert allows(job, '{"name": "add", "arguments": {"a": 1}}')
    assert allows(job, "yes")
    assert not allows(job, "In words.")


def test_reasoning_comes_before_what_is_asked_for(allows):
    job = chat(constraint=Constraint("regex", "(yes|no)", "p"), tells_reasoning=True)
    begun, free = ChatTemplate(BEGUN, {}), ChatTemplate(FREE, {})
    assert allows(job, "Hm, {wait}.</think>\n\nyes", begun)
    assert not allows(job, "yes", begun)
    assert not allows(job, "Hm.</think>maybe", begun)
    assert allows(job, "<think>Hm.</think>no", free)
    assert allows(job, "no", free)
    assert not allows(job, "Hm.", free)


def test_all_choices_of_a_job_share_the_text_of_the_grammar(text):
    job = make_job(prompts=[[5], [6]], n=2, constraint=Constraint("json_object"))
    grammars = {plan.params.grammar for plan in prepare(job, text, WIDE)}
    assert len(grammars) == 1
    assert json.loads(grammars.pop())["grammars"][0]["json_schema"]["type"] == "object"
