"""`LLM` asks an engine for the same as the service does for the same request."""

import pytest

from engine import SamplingParams, StructuredOutputsParams
from engine.llm_inputs import Prompt
from engine.llm_params import Roles
from engine.llm_run import Request
from tests.workers.test_prepare import INFO, chat
from tests.workers.wire import make_job
from workers.contract import Constraint, Dry
from workers.prepare import prepare

CASES = {
    "bad words": ({"bad_words": ["hello", " world"]}, {"bad_words": ("hello", " world")}),
    "allowed ids": ({"allowed_token_ids": [5, 9]}, {"allowed_token_ids": (5, 9)}),
    "dry": (
        {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3},
        {"dry": Dry(multiplier=0.8, base=2.0, allowed_length=3)},
    ),
    "logprobs": ({"logprobs": 4}, {"logprobs": 4}),
    "regex": (
        {"structured_outputs": StructuredOutputsParams(regex="a/b{2}")},
        {"constraint": Constraint("regex", "a/b{2}")},
    ),
    "choice": (
        {"structured_outputs": StructuredOutputsParams(choice=["a", " b"])},
        {"constraint": Constraint("choice", ["a", " b"])},
    ),
    "json": (
        {"structured_outputs": StructuredOutputsParams(json={"type": "integer"})},
        {"constraint": Constraint("json_schema", {"type": "integer"})},
    ),
    "json object": (
        {"structured_outputs": StructuredOutputsParams(json_object=True)},
        {"constraint": Constraint("json_object")},
    ),
}


@pytest.mark.parametrize("is_chat", [False, True], ids=["completion", "chat"])
@pytest.mark.parametrize(("own", "asked"), CASES.values(), ids=CASES)
def test_the_engine_is_asked_for_the_same(text, own, asked, is_chat):
    (plan,) = prepare((chat if is_chat else make_job)(temperature=0.7, **asked), text, INFO)
    tokenizer = text.tokenizer
    params = SamplingParams(max_tokens=8, temperature=0.7, **own)
    request = Request("0", Prompt(None, plan.prompt_ids, is_chat), params, seed=1)
    ends = tuple(sorted(tokenizer.eos_ids))
    roles = Roles(ends, text.defaults.never_ids(INFO.vocab_size))
    (sequence,) = request.sequences(tokenizer, INFO, roles)
    assert sequence.params == plan.params
