"""What a text must look like, in all kinds that can be asked for, as a grammar for llguidance.

Knows no model but whether its texts have a first space that nobody sees.
"""

from typing import Any, Literal

from engine.text import grammar_text

Kind = Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf", "llguidance"]


def grammar_of(kind: Kind, value: Any, *, is_led: bool) -> str:
    """The grammar of a text that is shown, GBNF still to be converted. Raises InvalidInput.

    `is_led`: the first space of what is written is not shown (SentencePiece).
    """
    match kind:
        case "regex":
            return grammar_text.of_regex(value, is_led=is_led)
        case "choice":
            return grammar_text.of_choice(value, is_led=is_led)
        case "json_schema":
            grammar = grammar_text.of_json_schema(value)
        case "json_object":
            grammar = grammar_text.of_json_object()
        case "lark":
            grammar = grammar_text.of_lark(value)
        case "gbnf":
            grammar = grammar_text.of_gbnf_or_lark(value)
        case "llguidance":
            grammar = grammar_text.of_llguidance(value)
    is_json = kind in ("json_schema", "json_object")
    return grammar_text.led(grammar, is_free=is_json) if is_led else grammar
