"""Schemas and regexes that nobody thought of: what the model says of them is valid, always.

Schemas are judged by jsonschema, regexes by Python's `re`.
"""

import json
import re

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_generator
from engine.messages import SequenceRequest
from engine.text.grammar_text import of_json_schema, of_regex
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from tests.engine.hash_model import drain, ids_of

MAX_TOKENS = 160
NUM_AT_ONCE = 5  # examples that run in one batch

_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
_values = st.one_of(
    st.none(), st.booleans(), st.integers(-999, 999), st.text('abc "\\/\n€', max_size=5)
)


def _bounded(kind, low, high, least, most):
    """`kind` with two bounds that are in order."""
    return st.tuples(st.integers(low, high), st.integers(0, high)).map(
        lambda pair: {"type": kind, least: pair[0], most: pair[0] + pair[1]}
    )


_plain = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    _bounded("integer", -500, 500, "minimum", "maximum"),
    _bounded("number", -50, 50, "minimum", "maximum"),
    _bounded("string", 0, 6, "minLength", "maxLength"),
    st.sampled_from(["^[a-c]{1,3}$", "^x\\d{2}$", "^(a|bc)?$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(["date", "uuid", "ipv4", "time"]).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.lists(_values, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _values.map(lambda value: {"const": value}),
)


@st.composite
def _objects(draw, parts):
    properties = draw(st.dictionaries(_names, parts, max_size=4))
    required = (
        draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    )
    more = draw(st.sampled_from([False, {"type": "boolean"}]))
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": more,
    }


def _nested(parts):
    return st.one_of(
        _objects(parts),
        st.tuples(parts, st.integers(0, 2), st.integers(0, 2)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
        ),
        st.lists(parts, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.lists(parts, min_size=1, max_size=3).map(
            lambda items: {
                "type": "array",
                "prefixItems": items,
                "items": False,
                "minItems": len(items),
            }
        ),
    )


SCHEMAS = st.recursive(_plain, _nested, max_leaves=6)
REGEXES = st.recursive(
    st.sampled_from(["a", "bc", "[d-g]", "[^h]", "[0-9]", "é", "\\.", "/", " ", '"', "."]),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map("".join),
        st.lists(parts, min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.tuples(parts, st.integers(0, 3), st.integers(0, 3)).map(
            lambda t: f"({t[0]}){{{t[1]},{t[1] + t[2]}}}"
        ),
        parts.map(lambda part: f"({part})?"),
    ),
    max_leaves=6,
)


class Speaker:
    """The built-in model at a temperature at which it would say anything."""

    def __init__(self):
        files = resolve(ModelRef(model="builtin"))
        self.engine = load_generator(
            files, EngineConfig(dtype="float32", max_seqs=8, max_model_len=256)
        )
        self.tokenizer = load_text_model(files).tokenizer

    def say(self, grammars):
        """A text for each grammar; None for one that did not come to its end."""
        prompt = self.tokenizer.encode("The wind said")
        for number, grammar in enumerate(grammars):
            params = SamplingParams(
                grammar=grammar,
                max_tokens=MAX_TOKENS,
                temperature=2.0,
                seed=number,
                stop_token_ids=tuple(self.tokenizer.eos_ids),
            )
            self.engine.add(SequenceRequest(id=str(number), prompt_ids=prompt, params=params))
        made = drain(self.engine)
        return [self._text(made[str(number)]) for number in range(len(grammars))]

    def _text(self, outputs):
        assert outputs[-1].error is None, outputs[-1].error
        is_whole = outputs[-1].finish == "stop"
        return self.tokenizer.decode(ids_of(outputs)) if is_whole else None


@pytest.fixture(scope="module")
def speaker():
    return Speaker()


def check_schemas(speaker, schemas):
    texts = speaker.say([of_json_schema(schema) for schema in schemas])
    for schema, text in zip(schemas, texts, strict=True):
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
    return sum(text is not None for text in texts)


def check_regexes(speaker, regexes):
    texts = speaker.say([of_regex(regex) for regex in regexes])
    for regex, text in zip(regexes, texts, strict=True):
        assert text is None or re.fullmatch(regex, text), (regex, text)
    return sum(text is not None for text in texts)


CHECKS = {"schemas": (check_schemas, SCHEMAS), "regexes": (check_regexes, REGEXES)}


def check_many(speaker, check, strategy, num_examples):
    counts = [0, 0]

    @settings(
        max_examples=num_examples // NUM_AT_ONCE,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=NUM_AT_ONCE, max_size=NUM_AT_ONCE))
    def run(items):
        counts[0] += check(speaker, items)
        counts[1] += len(items)

    run()
    assert counts[1] >= num_examples
    assert counts[0] > 0.8 * counts[1], "most come to their end"


@pytest.mark.parametrize(("check", "strategy"), CHECKS.values(), ids=CHECKS)
def test_what_is_said_is_valid(speaker, check, strategy):
    check_many(speaker, check, strategy, 40)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("check", "strategy"), CHECKS.values(), ids=CHECKS)
def test_what_is_said_is_valid_500_times(speaker, check, strategy):
    check_many(speaker, check, strategy, 500)
