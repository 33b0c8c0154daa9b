"""What a job's answers must look like, as a grammar: its constraint, its tools. Knows no engine."""

from typing import Any

import msgspec

from engine.errors import InvalidInput
from engine.text import grammar_text
from engine.text.chat_template import ChatTemplate
from engine.text.constraint import grammar_of as constraint_grammar
from engine.text.text_model import TextModel
from engine.text.tokenizer import Tokenizer
from engine.text.tools.grammar import Caller, calls_grammar, speech_grammar
from workers.contract import Constraint, Job
from workers.grammar_frames import MAX_BYTES
from workers.hearing import Hearing


def grammar_of(job: Job, text: TextModel, hearing: Hearing | None) -> str:
    """The grammar that the answers follow, for llguidance; empty if they are free.

    Raises InvalidInput.
    """
    has_begun = hearing is not None and hearing.is_thinking
    is_led = text.tokenizer.drops_first_space and not (job.continues_text or has_begun)
    try:
        grammar = _grammar(job, text, is_led=is_led)
    except RecursionError as error:
        raise InvalidInput("A schema is nested too deeply.", param_of(job)) from error
    thinking = None if hearing is None else hearing.thinking
    if not grammar or hearing is None or thinking is None:
        return grammar
    begin, end = (spell(text.tokenizer, mark) for mark in thinking)
    return grammar_text.behind_reasoning(grammar, begin, end, has_begun=has_begun)


def param_of(job: Job) -> str | None:
    """The request's field that the grammar is of."""
    return job.constraint.param if job.constraint is not None else "tools"


def _grammar(job: Job, text: TextModel, *, is_led: bool) -> str:
    answer = "" if job.constraint is None else _of_constraint(job.constraint, is_led=is_led)
    if text.chat_template is None or not job.tools:
        return answer
    if not (job.must_call or job.strict_tools or answer):
        return answer
    is_free = not (job.must_call or answer)
    calls = _calls(job, text.tokenizer, text.chat_template, is_free=is_free)
    if is_led and not is_free:
        calls = grammar_text.led(calls, is_free=True, name="led_calls")
    return grammar_text.either(calls, answer) if answer else calls


def _calls(job: Job, tokenizer: Tokenizer, template: ChatTemplate, *, is_free: bool) -> str:
    """Calls; words too where the model `is_free` to use them."""
    name = template.tool_format.name
    caller = Caller(name, lambda mark: spell(tokenizer, mark), template.source)
    if not is_free:
        return calls_grammar(caller, job.tools, job.max_calls)
    tools = [
        tool if tool["function"]["name"] in job.strict_tools else _loose(tool) for tool in job.tools
    ]
    return speech_grammar(caller, tools, job.max_calls)


def _loose(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool with any arguments."""
    return {"function": {"name": tool["function"]["name"]}}


def _of_constraint(constraint: Constraint, *, is_led: bool) -> str:
    _check_size(constraint)
    try:
        return constraint_grammar(constraint.kind, constraint.value, is_led=is_led)
    except InvalidInput as error:
        raise InvalidInput(str(error), constraint.param) from error


def _check_size(constraint: Constraint) -> None:
    """Refuse what is too large before much is done with it."""
    try:
        size = len(msgspec.json.encode(constraint.value))
    except UnicodeEncodeError as error:
        what = "It has half of a surrogate pair; it is not Unicode."
        raise InvalidInput(what, constraint.param) from error
    if size > MAX_BYTES:
        what = f"A grammar has at most {MAX_BYTES} bytes; this one has {size}."
        raise InvalidInput(what, constraint.param)


def spell(tokenizer: Tokenizer, mark: str) -> str:
    """A mark as a term of Lark: as the special token that it is, else as its text."""
    token_id = tokenizer.token_to_id(mark)
    if token_id is not None and token_id in tokenizer.special_ids:
        return f"<[{token_id}]>"
    return grammar_text.literal(mark)
