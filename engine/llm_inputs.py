"""Turns what a caller of `LLM` wrote into prompts of token ids. Knows no engine.

Torch-free.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from engine.errors import EngineError, InvalidInput
from engine.llm_params import SamplingParams
from engine.text.chat_prompt import render_chat
from engine.text.chat_template import ChatTemplate
from engine.text.text_model import TextModel

PromptInput: TypeAlias = str | Mapping[str, Any]
Conversation: TypeAlias = Sequence[Mapping[str, Any]]
Params: TypeAlias = SamplingParams | Sequence[SamplingParams]


class Prompt(NamedTuple):
    """A prompt's text, where it came as text, and its ids. `is_chat`: an answer starts anew."""

    text: str | None
    token_ids: list[int]
    is_chat: bool = False


def read_prompts(prompts: PromptInput | Sequence[PromptInput], text: TextModel) -> list[Prompt]:
    """One prompt or several: a text, `{"prompt": text}` or `{"prompt_token_ids": ids}`.

    Raises InvalidInput, with a note which one it is, for what is none of these.
    """
    single = isinstance(prompts, str | Mapping)
    items: Iterable[Any] = [prompts] if single else prompts
    return [_noted(number, _prompt, item, text) for number, item in enumerate(items)]


def read_conversations(
    messages: Conversation | Sequence[Conversation],
    text: TextModel,
    template: str | None,
    **variables: Any,
) -> list[Prompt]:
    """One conversation or several, by the model's chat template or `template` (Jinja).

    `variables` are what the template may use. Raises InvalidInput for messages that it refuses,
    and LoadError for a template that does not compile.
    """
    renderer = text.chat_template
    if template is not None:
        renderer = ChatTemplate(template, text.tokenizer.special_tokens)
    if renderer is None:
        raise InvalidInput("The model has no chat template; give one, or use generate.", "messages")
    conversations: Sequence[Any] = messages
    if messages and isinstance(messages[0], Mapping):
        conversations = [messages]
    return [
        _noted(number, _conversation, item, text, renderer, variables)
        for number, item in enumerate(conversations)
    ]


def read_params(params: Params, num_prompts: int) -> list[SamplingParams]:
    """One for each prompt. Raises InvalidInput if there are several, but not as many."""
    if isinstance(params, SamplingParams):
        return [params] * num_prompts
    if len(params) != num_prompts:
        raise InvalidInput(
            f"There are {num_prompts} prompts and {len(params)} SamplingParams; give one for all, "
            "or one for each.",
            "sampling_params",
        )
    return list(params)


def _noted(number: int, read: Any, *arguments: Any) -> Prompt:
    try:
        prompt: Prompt = read(*arguments)
    except EngineError as error:
        error.add_note(f"This is about prompt {number}.")
        raise
    return prompt


def _prompt(item: object, text: TextModel) -> Prompt:
    if isinstance(item, str):
        return Prompt(item, _encode(item, text))
    if isinstance(item, Mapping) and isinstance(ids := item.get("prompt_token_ids"), Sequence):
        return Prompt(item.get("prompt"), _checked_ids(ids))
    if isinstance(item, Mapping) and isinstance(prompt := item.get("prompt"), str):
        return Prompt(prompt, _encode(prompt, text))
    raise InvalidInput(
        "A prompt is a str, {'prompt': str} or {'prompt_token_ids': list of int}, not "
        f"{type(item).__name__}.",
        "prompts",
    )


def _encode(prompt: str, text: TextModel) -> list[int]:
    ids = text.tokenizer.encode(prompt)
    bos_id = text.tokenizer.bos_id
    return ids if ids or bos_id is None else [bos_id]


def _checked_ids(ids: Sequence[Any]) -> list[int]:
    if not all(isinstance(token_id, int) for token_id in ids):
        raise InvalidInput("prompt_token_ids has an item that is no int.", "prompts")
    return list(ids)


def _conversation(
    messages: object, text: TextModel, renderer: ChatTemplate, variables: Mapping[str, Any]
) -> Prompt:
    if not _is_conversation(messages):
        raise InvalidInput(
            "messages is a list of {'role': …, 'content': …}, or a list of such lists.", "messages"
        )
    prompt = render_chat(renderer, text.tokenizer, messages, **variables)  # type: ignore[arg-type]
    return Prompt(prompt.text, prompt.encode(text.tokenizer), is_chat=True)


def _is_conversation(messages: object) -> bool:
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and bool(messages)
        and all(isinstance(message, Mapping) for message in messages)
    )
