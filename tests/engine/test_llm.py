"""`LLM` for Python programs: against transformers' greedy tokens and the engine's own step loop."""

import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

import engine
from engine import LLM, SamplingParams
from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import InvalidInput, LoadError, PromptTooLong
from engine.llm_params import Roles
from engine.messages import SequenceRequest
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny

CORPUS = "A small model learns small words: the quick brown fox, the lazy dog, one two three. " * 4
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}{{ mood or '' }}"
PROMPTS = [f"{CORPUS[number : number * 3 + 7]} {number}" for number in range(20)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny random Llama with a byte-level tokenizer of its vocabulary's size."""
    path = tiny.save_checkpoint("llama", tmp_path_factory.mktemp("llm"))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    return PreTrainedTokenizerFast.from_pretrained(directory)


def make(directory, **options) -> LLM:
    given = {"dtype": "float32", "device": "cpu", "kv_cache_memory_bytes": 1 << 22}
    return LLM(model=directory, **{**given, **options})


@pytest.fixture(scope="module")
def llm(directory) -> LLM:
    return make(directory, max_num_seqs=8)


def generate(llm, *arguments, **options):
    return llm.generate(*arguments, use_tqdm=False, **options)


def ids_of(outputs):
    return [[answer.token_ids for answer in output.outputs] for output in outputs]


def by_transformers(model, prompt_ids, num_tokens):
    ids = torch.tensor([prompt_ids])
    config = GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return made[0, len(prompt_ids) :].tolist()


def test_20_prompts_at_once_give_transformers_greedy_tokens_and_text(llm, tokenizer):
    model = tiny.make_model("llama")
    outputs = generate(llm, PROMPTS, SamplingParams(temperature=0, max_tokens=24))
    assert [output.prompt for output in outputs] == PROMPTS
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert output.prompt_token_ids == tokenizer(prompt)["input_ids"]
        expected = by_transformers(model, output.prompt_token_ids, 24)
        (answer,) = output.outputs
        assert answer.token_ids == expected
        assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert answer.finish_reason == ("stop" if expected[-1] == 2 else "length")
        assert output.finished


def test_a_tokenizer_from_elsewhere_serves_weights_that_have_none(directory, llm, tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(directory / name, tmp_path)
    params = SamplingParams(temperature=0, max_tokens=8)
    bare = make(tmp_path, tokenizer=str(directory), max_num_seqs=8)
    expected, actual = (generate(one, PROMPTS[:3], params) for one in (llm, bare))
    assert [output.outputs for output in actual] == [output.outputs for output in expected]


def test_sampled_answers_are_those_of_the_engine_s_own_step_loop(directory, llm):
    params = SamplingParams(
        n=3,
        seed=7,
        top_k=40,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.1,
        logit_bias={9: 3.0},
        max_tokens=20,
        min_tokens=5,
    )
    outputs = generate(llm, PROMPTS[:4], params)
    config = EngineConfig(device="cpu", dtype="float32", kv_cache_bytes=1 << 22)
    loop = load_engine(resolve(ModelRef(model=str(directory))), config)
    for number, output in enumerate(outputs):
        for choice in range(3):
            settled = params.settled(seed=7, choice=choice, room=999, roles=Roles((2,)))
            loop.add(
                SequenceRequest(
                    id=f"{number}/{choice}", prompt_ids=output.prompt_token_ids, params=settled
                )
            )
    made: dict[str, list[int]] = {}
    while loop.has_work():
        for step in loop.step():
            made.setdefault(step.id, []).extend(step.token_ids)
    expected = [[made[f"{number}/{choice}"] for choice in range(3)] for number in range(4)]
    assert ids_of(outputs) == expected
    assert len({tuple(ids) for ids in ids_of(outputs)[0]}) > 1
    assert [answer.index for answer in outputs[0].outputs] == [0, 1, 2]


def test_more_prompts_than_rows_wait_for_their_turn_and_keep_their_order(
    directory, llm, monkeypatch
):
    narrow = make(directory, max_num_seqs=2)
    params = [
        SamplingParams(temperature=0, max_tokens=1 + i % 5, ignore_eos=True) for i in range(60)
    ]
    prompts = [{"prompt_token_ids": [1, 5 + i]} for i in range(60)]
    nums_of_rows, step = [], narrow._engine.step

    def counting_step():
        made = step()
        nums_of_rows.append(len(made))
        return made

    monkeypatch.setattr(narrow._engine, "step", counting_step)
    outputs = generate(narrow, prompts, params)
    assert max(nums_of_rows) == 2
    assert [len(output.outputs[0].token_ids) for output in outputs] == [
        p.max_tokens for p in params
    ]
    assert ids_of(outputs) == ids_of(generate(llm, prompts, params))
    assert [output.prompt for output in outputs] == [None] * 60


class NoBar:
    """What tqdm's bar has, without a line."""

    def __init__(self, **options):
        self.options = options

    def set_postfix_str(self, text, refresh):
        self.text = text

    def update(self, count):
        pass

    def close(self):
        pass


def test_the_bar_counts_requests_and_shows_tokens_a_second(llm):
    bars = []

    class Bar(NoBar):
        def __init__(self, **options):
            super().__init__(**options)
            self.count = 0
            bars.append(self)

        def update(self, count):
            self.count += count

        def close(self):
            self.is_closed = True

    llm.generate(PROMPTS[:5], SamplingParams(n=2, max_tokens=3, ignore_eos=True), use_tqdm=Bar)
    (bar,) = bars
    assert (bar.options["total"], bar.count, bar.is_closed) == (5, 5, True)
    assert "input: " in bar.text
    assert "output: " in bar.text


def test_tqdm_s_own_bar_is_the_default(llm, capfd):
    llm.generate("x", SamplingParams(max_tokens=2))
    error = capfd.readouterr().err
    assert "Processed prompts: 100%" in error
    assert "tokens/s" in error
    generate(llm, "x", SamplingParams(max_tokens=2))
    assert capfd.readouterr().err == ""


def test_ctrl_c_ends_the_call_between_two_steps_and_the_llm_goes_on(llm):
    expected = ids_of(generate(llm, PROMPTS[:6], SamplingParams(temperature=0, max_tokens=30)))

    class Bar(NoBar):
        def update(self, count):
            os.kill(os.getpid(), signal.SIGINT)

    params = [SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)] * 19
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS[:20], [SamplingParams(max_tokens=1), *params], use_tqdm=Bar)
    assert not llm._engine.has_work()
    assert llm._engine.stats().kv_blocks_used == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = generate(llm, PROMPTS[:6], SamplingParams(temperature=0, max_tokens=30))
    assert ids_of(again) == expected


def test_a_prompt_that_is_too_long_is_refused_by_number_before_anything_runs(llm):
    queries = llm._engine.stats().prefix_queries
    with pytest.raises(PromptTooLong, match="maximum context length is 256") as error:
        generate(llm, [*PROMPTS[:2], "word " * 400], SamplingParams(max_tokens=4))
    assert error.value.__notes__ == ["This is about prompt 2."]
    assert not llm._engine.has_work()
    assert llm._engine.stats().prefix_queries == queries  # none was looked up, so none was run


def test_an_answer_fills_the_context_at_most(llm):
    prompt = {"prompt_token_ids": [5] * 250}
    for max_tokens in (None, 100):
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        (answer,) = generate(llm, prompt, params)[0].outputs
        assert (len(answer.token_ids), answer.finish_reason) == (6, "length")


def test_a_stop_string_ends_the_text_before_it_and_is_the_reason(llm, tokenizer):
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    whole = generate(llm, PROMPTS[0], params)[0].outputs[0]
    stop = whole.text[5:7]
    for given in (stop, [stop, "never in it"]):
        params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, stop=given)
        (answer,) = generate(llm, PROMPTS[0], params)[0].outputs
        assert answer.text == whole.text[: whole.text.index(stop)]
        assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
        assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
        assert stop in tokenizer.decode(answer.token_ids)
        assert stop not in tokenizer.decode(answer.token_ids[:-1])
    assert not llm._engine.has_work()


def test_a_stop_id_ends_the_answer_and_is_the_reason(llm):
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    ids = generate(llm, PROMPTS[0], params)[0].outputs[0].token_ids
    stopped = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, stop_token_ids=[ids[4]])
    (answer,) = generate(llm, PROMPTS[0], stopped)[0].outputs
    assert answer.token_ids == ids[: ids.index(ids[4]) + 1]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", ids[4])


def test_the_model_s_own_end_has_no_reason_and_shows_only_if_asked_to(llm):
    def answer(**values):
        params = SamplingParams(temperature=0, max_tokens=4, logit_bias={2: 100.0}, **values)
        return generate(llm, "x", params)[0].outputs[0]

    end = answer()
    assert (end.text, end.token_ids) == ("", [2])
    assert (end.finish_reason, end.stop_reason) == ("stop", None)
    assert answer(skip_special_tokens=False).text == "</s>"
    assert answer(ignore_eos=True).token_ids == [2, 2, 2, 2]
    assert answer(ignore_eos=True, skip_special_tokens=False).text == "</s>" * 4
    assert len(answer(min_tokens=3).token_ids) == 4


def test_seeds_settle_what_is_drawn(directory, llm):
    params, prompts = SamplingParams(max_tokens=12), ["the same"] * 3
    one, two = make(directory, seed=1), make(directory, seed=1)
    first = ids_of(generate(one, prompts, params))
    assert first == ids_of(generate(two, prompts, params))
    assert first != ids_of(generate(one, prompts, params))
    assert first != ids_of(generate(make(directory, seed=2), prompts, params))
    assert first[0] != first[1]
    fixed = SamplingParams(max_tokens=12, seed=5)
    same = ids_of(generate(one, prompts, fixed))
    assert same[0] == same[1] == same[2] == ids_of(generate(llm, "the same", fixed))[0]


def test_chat_is_the_template_s_prompt_continued(llm, tokenizer):
    talks = [
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
    ]
    params = SamplingParams(temperature=0, max_tokens=8)
    outputs = llm.chat(talks, params, use_tqdm=False)
    for talk, output in zip(talks, outputs, strict=True):
        prompt = tokenizer.apply_chat_template(talk, tokenize=False)
        assert output.prompt == prompt
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert output.prompt_token_ids == ids
        (alone,) = generate(llm, {"prompt_token_ids": ids}, params)
        assert output.outputs[0].token_ids == alone.outputs[0].token_ids
    (single,) = llm.chat(talks[0], params, use_tqdm=False)
    assert single.outputs == outputs[0].outputs


def test_chat_takes_a_template_and_its_variables(llm):
    talk, params = [{"role": "user", "content": "Hi"}], SamplingParams(max_tokens=1)
    (output,) = llm.chat(talk, params, use_tqdm=False, chat_template_kwargs={"mood": "glad"})
    assert output.prompt == "<s>user: Hi\nglad"
    template = "{{ messages[0].content }}{% if not add_generation_prompt %}!{% endif %}"
    (output,) = llm.chat(
        talk, params, use_tqdm=False, chat_template=template, add_generation_prompt=False
    )
    assert output.prompt == "Hi!"


def test_without_params_the_model_s_own_are_used():
    llm = LLM(device="cpu", dtype="float32")
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.max_tokens) == (0.3, 16)  # as its generation_config.json
    (output,) = generate(llm, "Once")
    again = LLM(device="cpu", dtype="float32")
    assert output.outputs == generate(again, "Once", params)[0].outputs


def test_what_the_makers_suppress_is_never_made(directory, tmp_path):
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    allowed = {40, 41, 42}
    never = sorted({*range(tiny.VOCAB_SIZE), 99_999} - allowed)
    config = {"suppress_tokens": never, "temperature": 0.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    llm = make(tmp_path)
    assert llm.get_default_sampling_params().temperature == 0.5
    for params in (None, SamplingParams(logit_bias={50: 100.0})):
        (output,) = generate(llm, "Once", params)
        assert set(output.outputs[0].token_ids) <= allowed


def test_the_docstring_s_example_runs_as_it_is_written():
    from engine import llm as module

    result = doctest.testmod(module, raise_on_error=True)
    assert (result.attempted, result.failed) == (4, 0)


def test_the_import_loads_no_torch():
    code = (
        "import sys; from engine import LLM, SamplingParams, RequestOutput, CompletionOutput; "
        "SamplingParams(n=2); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_what_the_package_does_not_export_is_no_attribute_of_it():
    with pytest.raises(AttributeError, match="has no attribute 'AsyncLLM'"):
        _ = engine.AsyncLLM


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n": 0}, "n of SamplingParams: Expected `int` >= 1"),
        ({"temperature": -1}, "temperature of SamplingParams"),
        ({"temperature": float("nan")}, "temperature of SamplingParams"),
        ({"temperature": float("inf")}, "temperature of SamplingParams"),
        ({"top_p": 1.5}, "top_p of SamplingParams"),
        ({"top_k": -2}, "top_k of SamplingParams"),
        ({"max_tokens": 0}, "max_tokens of SamplingParams"),
        ({"stop": ""}, "stop of SamplingParams"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop of SamplingParams"),
        ({"presence_penalty": 3}, "presence_penalty of SamplingParams"),
        ({"repetition_penalty": 0}, "repetition_penalty of SamplingParams"),
        ({"logit_bias": {1: 200.0}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"seed": 2**64}, "seed of SamplingParams"),
        ({"min_tokens": 20}, "min_tokens must not exceed max_tokens"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values, says):
    with pytest.raises(InvalidInput, match=says):
        SamplingParams(**values)


def test_what_the_sampler_cannot_do_is_no_parameter():
    with pytest.raises(TypeError, match="beam"):
        SamplingParams(use_beam_search=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("prompts", "params", "says"),
    [
        ([3], None, "A prompt is a str, .* not int"),
        ([{"text": "x"}], None, "A prompt is a str"),
        ([{"prompt_token_ids": ["x"]}], None, "an item that is no int"),
        ([{"prompt_token_ids": []}], None, "The prompt has no tokens"),
        ([{"prompt_token_ids": [9999]}], None, "9999 is no token id"),
        (["x"], SamplingParams(stop_token_ids=[9999]), "9999 is no token id"),
        (["x", "y"], [SamplingParams()], "2 prompts and 1 SamplingParams"),
    ],
)
def test_a_bad_prompt_is_refused_and_nothing_stays_in_the_engine(llm, prompts, params, says):
    with pytest.raises(InvalidInput, match=says):
        generate(llm, ["fine", *prompts] if params is None else prompts, params)
    assert not llm._engine.has_work()


@pytest.mark.parametrize("messages", [[], "Hi", [[]], ["Hi"], [["Hi"]]])
def test_bad_messages_are_refused(llm, messages):
    if messages == []:
        assert llm.chat(messages, use_tqdm=False) == []
        return
    with pytest.raises(InvalidInput, match="messages is a list of"):
        llm.chat(messages, use_tqdm=False)


def test_no_prompts_have_no_outputs(llm):
    assert generate(llm, []) == []


def test_a_model_that_does_not_load_says_why(directory, tmp_path):
    with pytest.raises(LoadError, match="neither a directory nor a repository"):
        LLM(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(LoadError, match="dtype 'int4' is not supported"):
        make(directory, dtype="int4")
    with pytest.raises(LoadError, match="context of 999 tokens"):
        make(directory, max_model_len=999)
    with pytest.raises(LoadError, match=r"has no GGUF file to serve, so not a.gguf"):
        make(directory, file="a.gguf")


def test_a_short_dtype_and_a_shorter_context_are_taken(directory):
    llm = make(directory, dtype="bf16", max_model_len=64)
    assert (llm._engine.info.dtype, llm._engine.info.context_length) == ("bfloat16", 64)


def test_isq_makes_the_weights_smaller_and_is_refused_before_a_model_is_looked_for(caplog):
    caplog.set_level("INFO")
    llm = LLM("builtin", isq="q4k", kv_cache_memory_bytes=1 << 22)
    assert "in-situ quantisation of 29 matrices: 28 to Q4_K, 1 to Q6_K" in caplog.text
    assert "28 Q4_K, 9 float32, 1 Q6_K" in caplog.text
    [answer] = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=4))
    assert len(answer.outputs[0].token_ids) == 4
    with pytest.raises(LoadError, match="ISQ type Q4 unknown"):
        LLM("/no/such/model", isq="Q4")
