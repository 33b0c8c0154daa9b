"""Log-probabilities of made and of prompt tokens, against a formula over all tokens before them."""

import msgspec
import pytest
import torch

from tests.engine.hash_model import HashModel, drain, hash_tokens, make_engine, request

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3]


def expected(prefix):
    return HashModel().table[hash_tokens(prefix)].log_softmax(-1)


def check(described, tokens, num_top):
    """`described[i]` is of `tokens[-len(described) + i]`, after all that is before it."""
    first = len(tokens) - len(described)
    for i, item in enumerate(described):
        truth = expected(tokens[: first + i])
        assert item.logprob == pytest.approx(truth[tokens[first + i]].item(), abs=1e-5)
        values, ids = truth.topk(num_top)
        assert [token for token, _ in item.top] == ids.tolist()
        torch.testing.assert_close(torch.tensor([v for _, v in item.top]), values)


def run(engine, *requests):
    for one in requests:
        engine.add(one)
    made = {}
    for id, outputs in drain(engine).items():
        made[id] = (
            [i for output in outputs for i in output.token_ids],
            [p for output in outputs for p in output.logprobs],
            [p for output in outputs for p in output.prompt_logprobs],
        )
    return made


def ask(id="a", prompt=PROMPT, output_ids=(), **params):
    params = {"max_tokens": 6, "num_logprobs": 3, "num_prompt_logprobs": 2} | params
    return request(prompt, id=id, output_ids=list(output_ids), **params)


VARIANTS = {
    "at once": {},
    "chunks of five": {"max_num_batched_tokens": 5},
    "preempted": {"num_blocks": 13},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_they_are_the_models_own_whatever_the_steps(variant):
    engine = make_engine(**variant)
    requests = [ask(str(i), [i + 1, *PROMPT], max_tokens=20) for i in range(4)]
    for id, (tokens, made, of_prompt) in run(engine, *requests).items():
        prompt = [int(id) + 1, *PROMPT]
        assert (len(tokens), len(made), len(of_prompt)) == (20, 20, len(prompt) - 1)
        check(made, prompt + tokens, 3)
        check(of_prompt, prompt, 2)
    assert bool(engine.stats().num_preemptions) == ("num_blocks" in variant)


def test_a_cached_prompt_is_described_too():
    engine = make_engine()
    first = run(engine, ask())["a"]
    assert run(engine, ask())["a"] == first
    assert run(engine, ask("b", num_prompt_logprobs=None))["b"] == (first[0], first[1], [])


def test_penalties_bias_and_temperature_do_not_change_them():
    changes = {"temperature": 1.7, "seed": 5, "logit_bias": {7: 50.0}, "frequency_penalty": 1.0}
    tokens, made, _ = run(make_engine(), ask(**changes))["a"]
    assert 7 in tokens
    check(made, PROMPT + tokens, 3)


def test_zero_alternatives_give_the_token_alone():
    tokens, made, of_prompt = run(make_engine(), ask(num_logprobs=0, num_prompt_logprobs=0))["a"]
    check(made, PROMPT + tokens, 0)
    check(of_prompt, PROMPT, 0)


def test_more_alternatives_than_there_are_tokens_are_all_of_them():
    _, made, _ = run(make_engine(), ask(num_logprobs=1000))["a"]
    assert sorted(token for token, _ in made[0].top) == list(range(HashModel().table.shape[1]))


def test_those_who_do_not_ask_are_told_nothing_beside_those_who_do():
    quiet = ask("q", num_logprobs=None, num_prompt_logprobs=None)
    made = run(make_engine(), quiet, ask("a"))
    assert made["q"] == (made["a"][0], [], [])
    check(made["a"][1], PROMPT + made["a"][0], 3)


def test_a_resume_describes_what_is_new():
    whole = run(make_engine(), ask())["a"]
    rest = run(make_engine(), ask(output_ids=whole[0][:2], num_prompt_logprobs=None))["a"]
    assert rest == (whole[0][2:], whole[1][2:], [])


def test_no_tokens_are_asked_for_and_the_prompt_is_described():
    tokens, made, of_prompt = run(make_engine(), ask(max_tokens=0))["a"]
    assert (tokens, made) == ([], [])
    check(of_prompt, PROMPT, 2)


def test_a_prompt_of_one_token_has_none():
    engine = make_engine()
    engine.add(ask(prompt=[4], max_tokens=0))
    [output] = engine.step()
    assert (output.token_ids, output.prompt_logprobs, output.finish) == ([], [], "length")
    assert not engine.has_work()


def test_a_cancelled_prompt_leaves_nothing_behind():
    engine = make_engine(max_num_batched_tokens=5)
    engine.add(ask())
    engine.step()
    engine.cancel("a")
    assert not engine._runner.prompt_logprobs._found


def test_outputs_cross_processes():
    engine = make_engine()
    engine.add(ask())
    [output] = engine.step()
    assert output.prompt_logprobs
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(output), type=type(output))
    assert again == output
