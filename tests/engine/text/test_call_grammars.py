"""Grammars of tool calls: what one allows, the reader of its format reads back."""

import json
import random

import pytest

from engine.text.grammar import make_matcher, make_vocabulary
from engine.text.grammar_text import behind_reasoning, literal, of_regex
from engine.text.listener import Listener
from engine.text.text_model import load_text_model
from engine.text.tools.formats import BARE, DEEPSEEK, HERMES, LLAMA, MISTRAL, PHI
from engine.text.tools.grammar import Caller, calls_grammar, speech_grammar
from engine.weights.files import ModelRef, resolve

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "integer", "maximum": 99, "minimum": 0}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "get.wind-now",
            "parameters": {
                "type": "object",
                "properties": {"where": {"enum": ["nörth", 'the "south"']}},
                "required": ["where"],
                "additionalProperties": False,
            },
        },
    },
]
FORMS = {
    "hermes": (HERMES, ""),
    "phi": (PHI, ""),
    "mistral": (MISTRAL, ""),
    "mistral, v11": (MISTRAL, "[ARGS]"),
    "deepseek": (DEEPSEEK, "```json"),
    "deepseek, v3.1": (DEEPSEEK, ""),
    "llama": (LLAMA, ""),
    "bare": (BARE, ""),
}


@pytest.fixture(scope="module")
def vocabulary():
    tokenizer = load_text_model(resolve(ModelRef(model="builtin"))).tokenizer
    return tokenizer, make_vocabulary(tokenizer, tokenizer.vocab_size)


def sample(vocabulary, grammar, seed):
    """A text of the grammar, drawn token by token; ends as soon as it may."""
    tokenizer, matching = vocabulary
    matcher, rng, ids = make_matcher(matching.tokenizer, grammar), random.Random(seed), []
    while not matcher.is_stopped() and not (matcher.is_accepting() and rng.random() < 0.7):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [i for i in range(tokenizer.vocab_size) if bits >> i & 1]
        ids.append(rng.choice([i for i in allowed if i not in tokenizer.eos_ids]))
        assert matcher.consume_token(ids[-1]), matcher.get_error()
        assert len(ids) < 2000
    return tokenizer.decode(ids, skip_special_tokens=False)


def calls_of(text, form):
    listener = Listener(tools=form, tool_names=["add", "get.wind-now"])
    said = [listener.push(text), listener.end()]
    calls = [call for part in said for call in part.calls]
    names = {call.number: call.name for call in calls if call.name}
    joined = {
        number: "".join(call.arguments for call in calls if call.number == number)
        for number in names
    }
    content = "".join(part.content for part in said)
    return content, [(names[number], json.loads(joined[number])) for number in sorted(names)]


@pytest.mark.parametrize(("form", "template"), FORMS.values(), ids=FORMS)
def test_what_the_grammar_allows_is_read_as_calls_and_nothing_else(vocabulary, form, template):
    grammar = calls_grammar(Caller(form.name, literal, template), TOOLS, None)
    numbers = set()
    for seed in range(12):
        content, calls = calls_of(sample(vocabulary, grammar, seed), form)
        assert content.strip() == ""
        numbers.add(len(calls))
        for name, arguments in calls:
            if name == "add":
                assert 0 <= arguments["x"] <= 99
            else:
                assert arguments["where"] in ("nörth", 'the "south"')
    assert min(numbers) == 1
    assert max(numbers) > 1


@pytest.mark.parametrize(("form", "template"), FORMS.values(), ids=FORMS)
def test_one_call_at_most_if_that_is_asked(vocabulary, form, template):
    grammar = calls_grammar(Caller(form.name, literal, template), TOOLS, 1)
    for seed in range(4):
        assert len(calls_of(sample(vocabulary, grammar, seed), form)[1]) == 1


STAND_INS = {"<tool_call>": "<|system|>", "</tool_call>": "<|user|>"}


@pytest.fixture
def spell(vocabulary):
    tokenizer, _ = vocabulary
    return lambda mark: f"<[{tokenizer.token_to_id(STAND_INS[mark])}]>"


def test_marks_that_are_special_tokens_come_as_such(vocabulary, spell):
    grammar = calls_grammar(Caller("hermes", spell, ""), TOOLS, None)
    for seed in range(6):
        text = sample(vocabulary, grammar, seed)
        assert text.startswith("<|system|>")
        for mark, token in STAND_INS.items():
            text = text.replace(token, mark)
        content, calls = calls_of(text, HERMES)
        assert (content.strip(), bool(calls)) == ("", True)


@pytest.mark.parametrize("has_begun", [True, False], ids=["begun", "free"])
def test_reasoning_between_special_tokens_may_come_first(vocabulary, spell, has_begun):
    tokenizer, matching = vocabulary
    begin, end = spell("<tool_call>"), spell("</tool_call>")
    grammar = behind_reasoning(of_regex("(yes|no)"), begin, end, has_begun=has_begun)
    begin_id, end_id = (tokenizer.token_to_id(token) for token in STAND_INS.values())
    words = tokenizer.encode("Hm, yes or no?\n", add_special_tokens=False)
    yes = tokenizer.encode("yes", add_special_tokens=False)
    thought = [*([] if has_begun else [begin_id]), *words, end_id, *yes]
    matcher = make_matcher(matching.tokenizer, grammar)
    assert matcher.try_consume_tokens(thought) == len(thought)
    assert matcher.is_accepting()
    assert matcher.is_stopped()
    bare = make_matcher(matching.tokenizer, grammar)
    is_allowed = bare.try_consume_tokens(yes) == len(yes) and bare.is_accepting()
    assert is_allowed is not has_begun


@pytest.mark.parametrize(("form", "template"), FORMS.values(), ids=FORMS)
def test_words_may_be_said_instead_of_a_call_or_before_it(vocabulary, form, template):
    _tokenizer, matching = vocabulary
    caller = Caller(form.name, literal, template)
    speech, call = speech_grammar(caller, TOOLS, None), calls_grammar(caller, TOOLS, 1)

    def is_allowed(text):
        matcher = make_matcher(matching.tokenizer, speech)
        ids = matching.tokenizer.greedy_tokenize(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert is_allowed("In <words> [of] mine.")
    for seed in range(4):
        text = sample(vocabulary, call, seed)
        assert is_allowed(text)
        bad = text.replace("add", "sub").replace("get.wind-now", "get.wind")
        assert not is_allowed(bad)
        assert is_allowed("Let me see.\n" + text)
        is_marked = bool(form.marks) and form is not LLAMA
        assert is_allowed("Let me see.\n" + bad) is not is_marked
