"""Turns a job into sequences: template, tokens, limits, sampling values. Knows no Redis."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from engine.config import SamplingParams
from engine.errors import InvalidInput, PromptTooLong
from engine.messages import EngineInfo
from engine.text.chat_prompt import ChatPrompt, render_chat
from engine.text.chat_template import ChatTemplate
from engine.text.text_model import TextModel
from engine.text.word_rules import Rules, bad_word_ids, dry_params
from workers.constraint import grammar_of
from workers.contract import Job
from workers.hearing import Hearing
from workers.tool_messages import with_tools

T = TypeVar("T")

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions
# Texts of more characters per token of room are first looked at in pieces: tokenizing one of 30 MB
# whole takes gigabytes. Most text has three or four.
MAX_CHARS_PER_TOKEN = 8
PIECE_CHARS = 65_536


class Plan(NamedTuple):
    """One choice to generate. Choices of one prompt share `prompt_ids`."""

    prompt: int
    prompt_ids: list[int]
    params: SamplingParams
    hearing: Hearing | None = None

    def with_grammar(self, grammar: str) -> "Plan":
        """The same with the grammar that an engine takes."""
        return self._replace(params=msgspec.structs.replace(self.params, grammar=grammar))


class Prompt(NamedTuple):
    """A prompt's tokens, and how the answers to it are to be heard."""

    ids: list[int]
    hearing: Hearing | None = None


def prepare(job: Job, text: TextModel, info: EngineInfo) -> list[Plan]:
    """The plans of all choices, in order. Raises EngineError for what only the model can judge."""
    check_ids(job.sampling.logit_bias, info, "logit_bias")
    check_ids(job.sampling.stop_token_ids, info, "stop_token_ids")
    check_ids(job.sampling.allowed_token_ids, info, "allowed_token_ids")
    plans: list[Plan] = []
    rules = _rules(job, text, info)
    prompts = _prompts(job, text, info)
    grammar = grammar_of(job, text, prompts[0].hearing if prompts else None)
    for number, (prompt_ids, hearing) in enumerate(prompts):
        if job.sampling.truncates_prompt:
            prompt_ids = prompt_ids[-_prompt_room(job, info) :]
        max_tokens = _max_tokens(job, len(prompt_ids), info)
        for choice in range(number * job.n, (number + 1) * job.n):
            params = _params(job, text, choice, max_tokens, info.vocab_size, rules, grammar)
            plans.append(Plan(number, prompt_ids, params, hearing))
    return plans


def _prompts(job: Job, text: TextModel, info: EngineInfo) -> list[Prompt]:
    if job.kind == "chat":
        return [_chat_prompt(job, text, info)]
    return [
        Prompt(_prompt_ids(prompt, text, info, is_cut=job.sampling.truncates_prompt))
        for prompt in job.prompts or []
    ]


def render_job(job: Job, text: TextModel) -> ChatPrompt:
    """A chat job's prompt. Raises InvalidInput."""
    template = _template(job, text)
    try:
        return render_chat(
            template,
            text.tokenizer,
            with_tools(job.messages or [], job.tools, template),
            tools=job.tools or None,
            now_s=job.created_s,
            continues_message=job.continues_message,
            **_own_variables(job.template_kwargs),
        )
    except InvalidInput as error:
        is_prompt = error.param == "messages"
        raise InvalidInput(str(error), job.prompt_param if is_prompt else error.param) from error


def _template(job: Job, text: TextModel) -> ChatTemplate:
    if text.chat_template is None:
        raise InvalidInput(
            f"The model {job.model} has no chat template; use /v1/completions, or have it served "
            "with --chat-template.",
            job.prompt_param,
        )
    return text.chat_template


def _chat_prompt(job: Job, text: TextModel, info: EngineInfo) -> Prompt:
    prompt = render_job(job, text)
    if job.sampling.truncates_prompt:
        prompt = prompt.tail(_room(info) * MAX_CHARS_PER_TOKEN)
    _check_length(prompt.text, text, info, job.prompt_param)
    ids = _not_empty(prompt.encode(text.tokenizer), job.prompt_param)
    return Prompt(ids, Hearing.of(job, _template(job, text), prompt.text))


def _own_variables(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a request may set in the template; the time is the job's, so retries render the same."""
    return {name: value for name, value in kwargs.items() if name != "now_s"}


def _prompt_ids(
    prompt: str | list[int], text: TextModel, info: EngineInfo, *, is_cut: bool
) -> list[int]:
    if isinstance(prompt, list):
        check_ids(prompt, info, "prompt")
        return _not_empty(prompt, "prompt")
    if is_cut:
        prompt = prompt[-_room(info) * MAX_CHARS_PER_TOKEN :]
    _check_length(prompt, text, info, "prompt")
    ids = text.tokenizer.encode(prompt)
    bos_id = text.tokenizer.bos_id
    return _not_empty(ids if ids or bos_id is None else [bos_id], "prompt")


def _check_length(prompt: str, text: TextModel, info: EngineInfo, param: str) -> None:
    """Refuse a text that can never fit, without tokenizing more of it than that takes."""
    limit = _room(info)
    if num_tokens := tokens_beyond(prompt, text, limit):
        raise PromptTooLong(num_tokens, limit, param)


def tokens_beyond(prompt: str, text: TextModel, limit: int) -> int:
    """About how many tokens a text has that can never fit in `limit`, else 0.

    It is tokenized in pieces, no further than needed; cutting it changes the tokens at the cuts,
    hence the factor of two.
    """
    if len(prompt) <= limit * MAX_CHARS_PER_TOKEN:
        return 0
    num_tokens = 0
    for start in range(0, len(prompt), PIECE_CHARS):
        piece = prompt[start : start + PIECE_CHARS]
        num_tokens += len(text.tokenizer.encode(piece, add_special_tokens=False))
        if num_tokens > 2 * limit:
            return num_tokens * len(prompt) // (start + len(piece))
    return 0


def _room(info: EngineInfo) -> int:
    """Tokens that prompt and answer may have together."""
    return min(info.context_length, info.kv_tokens)


def _prompt_room(job: Job, info: EngineInfo) -> int:
    """Tokens that a prompt keeps which may be cut: the answer gets what it asks, or a quarter."""
    limit, asked = _room(info), job.sampling.max_tokens
    room = limit - max(limit // 4, 1) if asked is None else limit - asked
    if room < 1:
        raise PromptTooLong(limit - room + 1, limit, job.prompt_param)
    return room


def _not_empty(ids: list[int], param: str) -> list[int]:
    if not ids:
        raise InvalidInput("The prompt is empty.", param)
    return ids


def check_ids(ids: Iterable[int], info: EngineInfo, param: str) -> None:
    """Raise InvalidInput for an id that the model has not."""
    for token_id in ids:
        if not 0 <= token_id < info.vocab_size:
            raise InvalidInput(
                f"Token id {token_id} is outside the vocabulary of {info.vocab_size} tokens.", param
            )


def _max_tokens(job: Job, num_prompt: int, info: EngineInfo) -> int:
    limit = _room(info)
    asked = job.sampling.max_tokens
    room = limit - num_prompt
    needed = 1 if asked is None or job.is_capped else asked
    if room < needed:
        raise PromptTooLong(num_prompt + needed, limit, job.prompt_param)
    if asked is not None:
        return min(asked, room)
    return room if job.kind == "chat" else min(room, COMPLETION_MAX_TOKENS)


def _params(
    job: Job,
    text: TextModel,
    choice: int,
    max_tokens: int,
    vocab_size: int,
    rules: Rules,
    grammar: str,
) -> SamplingParams:
    """What the request says, else the model's makers, else what changes nothing."""
    asked, defaults = job.sampling, text.defaults
    # Some configurations name an end that the model cannot make.
    ends = () if asked.ignore_eos else text.tokenizer.eos_ids
    eos_ids = sorted(i for i in ends if i < vocab_size)
    return SamplingParams(
        max_tokens=max_tokens,
        seed=asked.seed,
        choice=choice,
        min_tokens=asked.min_tokens,
        temperature=_first(asked.temperature, defaults.temperature, 1.0),
        top_k=max(_first(asked.top_k, defaults.top_k, 0), 0),
        top_p=_first(asked.top_p, defaults.top_p, 1.0),
        min_p=_first(asked.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(asked.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        # No bias of the request's helps what the makers never want sampled.
        logit_bias=asked.logit_bias | dict.fromkeys(defaults.never_ids(vocab_size), -math.inf),
        stop_token_ids=(*asked.stop_token_ids, *eos_ids),
        ignore_eos=asked.ignore_eos,
        allowed_token_ids=asked.allowed_token_ids,
        bad_words=rules.bad_words,
        dry=rules.dry,
        grammar=grammar,
        num_logprobs=asked.logprobs,
        num_prompt_logprobs=asked.logprobs if job.shows_prompt else None,
    )


def _rules(job: Job, text: TextModel, info: EngineInfo) -> Rules:
    dry = job.sampling.dry
    asked = None if dry is None else msgspec.structs.asdict(dry)
    return Rules(
        bad_word_ids(job.sampling.bad_words, text.tokenizer),
        None if asked is None else dry_params(text.tokenizer, info.vocab_size, **asked),
    )


def _first(asked: T | None, default: T | None, neutral: T) -> T:
    if asked is not None:
        return asked
    return neutral if default is None else default
