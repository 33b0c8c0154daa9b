"""Prompts are those of transformers; a template that fails or runs away is the request's error."""

import datetime
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings, strategies as st

from engine.errors import InvalidInput, LoadError
from engine.text.chat_template import ChatTemplate
from engine.text.template_sandbox import TemplateLimits

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CHATML = """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + content.strip() }}
        {%- for tool_call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n' ~ tool_call.function | tojson(indent=2) ~ '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}
	{% set loop_messages = messages[1:] %}
  {% set system_message = messages[0]['content'] %}
	{% else %}
  {% set loop_messages = messages %}
	{% set system_message = false %}
  {% endif %}
	{% for message in loop_messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {% endif %}
	{% if loop.index0 == 0 and system_message != false %}
  {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
	{% else %}
  {% set content = message['content'] %}
	{% endif %}
  {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
  {% elif message['role'] == 'assistant' %}
	{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}
  {% endif %}
	{% endfor %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

MISTRAL = """{%- macro text(content) -%}{{ content | trim }}{%- endmacro -%}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and loop.last %}
            {{- "[TOOLS] " + (tools | tojson(separators=(",", ":"))) + "[/TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + text(message["content"]) + "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {{- " " ~ text(message["content"]) ~ eos_token }}
    {%- elif message["role"] == "system" %}
        {{- text(message["content"]) ~ pad_token }}
    {%- else %}
        {{- raise_exception("Only user, system and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}"""

TEMPLATES = {
    "chatml": CHATML,
    "qwen": QWEN,
    "llama 2": LLAMA2,
    "llama 3": LLAMA3,
    "mistral": MISTRAL,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "wetter",
        "description": "größe <b> & 'x'",
        "parameters": {"a": [1, None]},
    },
}
CALL = {"function": {"name": "f", "arguments": {"city": "Köln <&>"}}}
CHATS = {
    "one": [{"role": "user", "content": "Hi <b> & 'you' 你好"}],
    "system": [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "\n Hi "}],
    "turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>x</think>\n\nb "},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
    ],
    "call": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "user", "content": "c"},
    ],
}
OPTIONS = {
    "plain": {},
    "no prompt": {"add_generation_prompt": False},
    "tools": {"tools": [TOOL]},
    "kwargs": {"enable_thinking": False, "date_string": "1 Jan 2025"},
}


@pytest.fixture(scope="module")
def transformers_tokenizer():
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS)


def expected(tokenizer, source, messages, **options) -> str:
    options = {"add_generation_prompt": True} | options
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, **options
    )
    return text


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_the_prompt_is_that_of_transformers(transformers_tokenizer, source, messages, options):
    template = ChatTemplate(source, TOKENS)
    reference = expected(transformers_tokenizer, source, messages, **options)
    assert template.render(messages, **options) == reference


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.sampled_from(list(TEMPLATES)))
def test_any_text_is_rendered_as_transformers_does(transformers_tokenizer, texts, name):
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    template = ChatTemplate(TEMPLATES[name], TOKENS)
    reference = expected(transformers_tokenizer, TEMPLATES[name], messages)
    assert template.render(messages) == reference


def test_a_refusal_of_the_template_is_the_requests_error():
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(InvalidInput, match="refused the messages: Conversation roles") as caught:
        ChatTemplate(LLAMA2, TOKENS).render(messages)
    assert caught.value.param == "messages"


FAILING = {
    "no role": (CHATML, [{"content": "a"}]),
    "null content": (CHATML, [{"role": "user", "content": None}]),
    "number as content": (CHATML, [{"role": "user", "content": 5}]),
    "no messages": (LLAMA2, []),
    "not an object": (CHATML, ["hello"]),
    "division by zero": ("{{ 1 // 0 }}", []),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", []),
    "image part": (CHATML, [{"role": "user", "content": [{"type": "image_url"}]}]),
    "part without text": (CHATML, [{"role": "user", "content": [{"type": "text"}]}]),
    "text part as string": (CHATML, [{"role": "user", "content": ["a"]}]),
}


@pytest.mark.parametrize(("source", "messages"), FAILING.values(), ids=FAILING)
def test_a_failure_of_the_template_is_the_requests_error(source, messages):
    with pytest.raises(InvalidInput) as caught:
        ChatTemplate(source, TOKENS).render(messages)
    assert caught.value.param == "messages"


def test_a_macro_takes_a_large_number_of_the_messages():
    """A tool call's arguments hold timestamps and ids; templates hand them to macros."""
    source = "{% macro show(value) %}<{{ value }}>{% endmacro %}{{ show(messages[0].at) }}"
    prompt = ChatTemplate(source, TOKENS).render([{"role": "user", "at": 1_700_000_000}])
    assert prompt == "<1700000000>"


HOSTILE = {
    "large range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "medium range": ("{% for i in range(10**6) %}{% endfor %}", "Range too big"),
    "nested loops": (
        "{% for i in range(9**5) %}{% for j in range(9**5) %}{% endfor %}{% endfor %}",
        "ran for more than 0.3 s",
    ),
    "nested filtered loops": (
        "{% for i in range(9**5) %}{% for j in range(9**5) if j < 0 %}{% endfor %}{% endfor %}",
        "ran for more than 0.3 s",
    ),
    "macro tree": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "ran for more than 0.3 s",
    ),
    "much output": (
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "wrote more than",
    ),
    "doubling by tilde": (
        "{% set n = namespace(s='x') %}{% for i in range(40) %}"
        "{% set n.s = n.s ~ n.s %}{% endfor %}",
        "made a value",
    ),
    "doubling by plus": (
        "{% set n = namespace(s=[1]) %}{% for i in range(40) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}",
        "made a value",
    ),
    "doubling by a filter": (
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(40) %}"
        "{% set n.s = '%s%s' | format(n.s, n.s) %}{% endfor %}",
        "made a value",
    ),
    "doubling by a method": (
        "{% set n = namespace(s='x') %}{% for i in range(40) %}"
        "{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
        "made a value",
    ),
    "repetition": ("{{ 'x' * (10**6) * (10**6) }}", "made a value"),
    "repetition from the left": ("{{ 10**6 * ('x' * 10**6) }}", "made a value"),
    "power": ("{{ 10 ** 10 ** 10 }}", "power is too large"),
    "padding": ("{{ 'x'.ljust(10 ** 9) }}", "too large an argument"),
    "bytes of a number": ("{{ (1).to_bytes(10 ** 9) }}", "too large an argument"),
    "internals": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__class__"),
    "internals by format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "__class__"),
    "changing the messages": ("{{ messages.append(1) }}", "is unsafe"),
    "namespace internals": ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "cannot hold"),
    "namespace internals by name": ("{{ namespace(_x=1) }}", "cannot hold"),
    "namespace internals by dict": ("{{ namespace({'__init__': 1}) }}", "cannot hold"),
    "methods of dict": ("{{ dict.update }}{{ dict.update({}) }}", "has no attribute"),
    "reading files": ("{% include '/etc/passwd' %}", "no loader"),
}


@pytest.mark.parametrize(("source", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_stopped(source, reason):
    limits = TemplateLimits(max_seconds=0.3, max_chars=1 << 20)
    template = ChatTemplate(source, TOKENS, limits=limits)
    with pytest.raises(InvalidInput, match=reason):
        template.render([])


def test_the_limits_leave_room_for_long_chats():
    messages = [{"role": "user", "content": "x" * 1000}] * 2000
    assert len(ChatTemplate(CHATML, TOKENS).render(messages)) > 2_000_000


def test_a_template_that_does_not_compile_stops_the_start():
    with pytest.raises(LoadError, match=r"does not compile.*chat_template\.jinja"):
        ChatTemplate("{% for %}", TOKENS)


def test_strftime_now_tells_the_time_of_the_request():
    noon = datetime.datetime(2025, 7, 26, 12, tzinfo=datetime.UTC).timestamp()
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", TOKENS)
    assert template.render([], now_s=noon) == "26 Jul 2025"
    today = datetime.datetime.now(datetime.UTC)
    assert template.render([]) in {
        (today + datetime.timedelta(seconds=s)).strftime("%d %b %Y") for s in (0, 5)
    }


def test_the_callers_variables_cannot_replace_the_messages():
    template = ChatTemplate("{{ messages[0].content }}{{ x }}", TOKENS)
    messages = [{"role": "user", "content": "a"}]
    variables: dict[str, Any] = {"messages": [], "x": "!", "_budget": None}
    assert template.render(messages, **variables) == "a!"


def test_the_variant_for_tools_serves_requests_with_tools():
    template = ChatTemplate("plain", TOKENS, tools_source="tools {{ tools | length }}")
    assert template.render([]) == "plain"
    assert template.render([], tools=[TOOL]) == "tools 1"


PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
LOOP = "{% for part in message['content'] %}<{{ part.text }}>{% endfor %}"
FORMS = {
    "text only": ("{{ message['content'] }}", "a\nb", "c"),
    "parts only": (LOOP, "<a><b>", "<c>"),
    "parts by name": (
        "{% set x = message.content %}{% for p in x %}<{{ p.text }}>{% endfor %}",
        "<a><b>",
        "<c>",
    ),
    "parts by filter": (
        "{% for p in message.content | list %}<{{ p.text }}>{% endfor %}",
        "<a><b>",
        "<c>",
    ),
    "both": (
        "{% if message.content is string %}{{ message.content }}{% else %}" + LOOP + "{% endif %}",
        "<a><b>",
        "c",
    ),
}


@pytest.mark.parametrize(("body", "of_parts", "of_text"), FORMS.values(), ids=FORMS)
def test_content_is_given_in_the_form_that_the_template_takes(body, of_parts, of_text):
    template = ChatTemplate("{% for message in messages %}" + body + "{% endfor %}", TOKENS)
    assert template.render([{"role": "user", "content": PARTS}]) == of_parts
    assert template.render([{"role": "user", "content": "c"}]) == of_text
