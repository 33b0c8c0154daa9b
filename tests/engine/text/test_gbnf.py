"""llama.cpp's grammars allow as Lark what they allow as GBNF."""

import json

import pytest

from engine.errors import InvalidInput
from engine.text.gbnf import MAX_LARK, lark_of, with_lark
from engine.text.grammar import make_matcher, make_vocabulary
from engine.text.grammar_text import of_gbnf_or_lark, of_lark, of_regex
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve

SUM = 'root ::= expr ("+" expr)* # a sum. of "terms\nexpr ::= [0-9]+ | "(" root ")"'
CASES = {
    "recursion": (SUM, "1+(2+3)", "1+"),
    "a code point": (r'root ::= "\u0041\U00000042"', "AB", "A"),
    "a code point that is a quote": (r'root ::= "\u0022\x5c"', '"\\', '"'),
    "a range of code points": (r"root ::= [\u0041-\U0000005A\xe9]+", "AZé", "é1"),
    "beyond the plane": (r'root ::= "😀" [\U0001F600-\U0001F64F]', "😀😁", "😀a"),
    "what looks like a code point": (r'root ::= "\\u0041"', r"\u0041", "A"),
    "any character": ("root ::= ..", "a\n", "a"),
    "a point is a point": ('root ::= "." [.]', "..", ".a"),
    "counts": ('root ::= [a-z]{3} "-" [0-9]{2,}', "abc-12", "abc-1"),
    "a slash": ('root ::= "a/b" [/]', "a/b/", "a/b"),
    "all but": (r"root ::= [^\n\"]+", "a b", "a\n"),
    "names with a dash": ('root ::= item-one+\nitem-one ::= "x" | "y"', "xyx", "z"),
}


@pytest.fixture(scope="module")
def allows():
    tokenizer = load_text_model(resolve(ModelRef(model="builtin"))).tokenizer
    vocabulary = make_vocabulary(tokenizer, tokenizer.vocab_size).tokenizer

    def check(grammar, text):
        matcher = make_matcher(vocabulary, grammar)
        ids = tokenizer.encode(text, add_special_tokens=False)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return check


@pytest.mark.parametrize(("gbnf", "good", "bad"), CASES.values(), ids=CASES)
def test_it_allows_what_it_says(allows, gbnf, good, bad):
    grammar = with_lark(of_gbnf_or_lark(gbnf))
    assert allows(grammar, good)
    assert not allows(grammar, bad)


BAD = {
    "no root": 'a ::= "b"',
    "an unknown rule": "root ::= b",
    "half a class": "root ::= [a",
    "half an escape": 'root ::= "\\',
    "half a surrogate pair": r'root ::= "\uD800"',
    "no such character": r'root ::= "\UFFFFFFFF"',
    "nested deep": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "two rules of one name": 'root ::= a-b a_b\na-b ::= "a"\na_b ::= "b"',
    "too large": 'root ::= "' + "a" * (MAX_LARK + 1) + '"',
}


@pytest.mark.parametrize("gbnf", BAD.values(), ids=BAD)
def test_what_is_no_grammar_is_refused(gbnf):
    with pytest.raises(InvalidInput):
        lark_of(gbnf)


def test_only_what_is_gbnf_is_touched():
    for grammar in (
        of_regex('"gbnf"'),
        of_lark('start: "gbnf"'),
        '{"grammars": [{"a": "\\"gbnf"}]}',
    ):
        assert with_lark(grammar) == grammar
    gbnf = json.loads(of_gbnf_or_lark('root ::= "a"'))["grammars"][0]
    document = {"grammars": [{"lark_grammar": "start: @x"}, {**gbnf, "name": "x"}]}
    [first, second] = json.loads(with_lark(json.dumps(document)))["grammars"]
    assert first == {"lark_grammar": "start: @x"}
    assert second["name"] == "x"
    assert 'start: "a"' in second["lark_grammar"]
