"""Templates with alternatives, and question-and-answer scripts made of them. Knows no topic.

`{a|b|}` is one of its parts, nested at will; `@what(X)` is one of the ways to ask for X. A script
is a paragraph of lines `Q: question` and `A: answer`: several in a row are alternatives, questions
after answers are the next turn. `#` starts a comment, `\\n` is a line break, `<<` and `>>` braces.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHOICE = re.compile(r"\{([^{}]*)\}")
MACRO = re.compile(r"@(\w+)\(([^()]*)\)")
MACROS = {
    "what": "{What is|What is|What is|What's|what is|Explain|Tell me about|Can you explain|"
    "Describe|Please explain|What do you know about|Could you tell me about|Define|"
    "Tell me more about|} X",
    "how": "{How do I|How do I|How can I|How to|Show me how to|Can you tell me how to|I want to|"
    "How would I|How does one|What is the way to} X",
    "tell": "{Tell me|Please tell me|Can you tell me|Could you tell me|I would like|Give me|Write|"
    "Please write|Can you write|I want|Can I have} X",
}
QUESTION_WORDS = (
    *("what", "what's", "who", "whose", "which", "where", "when", "why", "how"),
    *("is", "are", "was", "were", "do", "does", "did", "has", "have"),
    *("can", "could", "would", "will", "should", "may"),
)
OPENINGS = ("Hi, ", "Hello! ", "Hey, ", "Please, ", "OK, ", "So, ", "And ")
ENDINGS = (" please", ", please", " please?", " Thanks!", " Thank you.", " now", "!")


@dataclass(frozen=True)
class Turn:
    """The ways to ask one thing, and the ways to answer it."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


Script = tuple[Turn, ...]


def expand(template: str, rng: random.Random) -> str:
    """One random reading of a template."""
    template = MACRO.sub(lambda m: MACROS[m[1]].replace("X", m[2]), template)
    while CHOICE.search(template):
        template = CHOICE.sub(lambda m: rng.choice(m[1].split("|")), template)
    return template.replace("<<", "{").replace(">>", "}").replace("\\n", "\n")


def ask(question: str, rng: random.Random) -> str:
    """A question as people type it: with or without its mark, its capital, a word of greeting."""
    text = expand(question, rng).strip()
    if text[-1:].isalnum() and text.isascii():
        text += "?" if text.split(maxsplit=1)[0].lower() in QUESTION_WORDS else "."
    if rng.random() < 0.3:
        text = text.rstrip("?.!") or text
    if rng.random() < 0.12 and text.isascii():
        text = rng.choice(OPENINGS) + text if rng.random() < 0.5 else text + rng.choice(ENDINGS)
    return rng.choice((text, text, text, text, text.lower(), text[0].lower() + text[1:]))


def play(script: Script, rng: random.Random) -> Iterator[tuple[str, str]]:
    """One random reading of a script: (question, answer) for each turn."""
    for turn in script:
        yield ask(rng.choice(turn.questions), rng), expand(rng.choice(turn.answers), rng)


def read_scripts(path: Path) -> list[Script]:
    """The scripts of a text file; ValueError for a line that is neither question nor answer."""
    return [_parse_script(paragraph) for paragraph in read_paragraphs(path)]


def read_paragraphs(path: Path) -> list[list[str]]:
    """A text file's paragraphs as lines, without the comments."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    paragraphs = "\n".join(lines).split("\n\n")
    return [paragraph.strip("\n").split("\n") for paragraph in paragraphs if paragraph.strip()]


def read_sections(path: Path) -> dict[str, list[str]]:
    """Paragraphs under `[name]` lines."""
    sections: dict[str, list[str]] = {}
    for paragraph in read_paragraphs(path):
        if paragraph[0].startswith("["):
            current = sections[paragraph.pop(0).strip("[]")] = []
        current.append("\n".join(paragraph))
    return sections


def read_lines(path: Path) -> dict[str, list[str]]:
    """Lines under `[name]` lines."""
    sections = read_sections(path)
    return {name: "\n".join(paragraphs).split("\n") for name, paragraphs in sections.items()}


def _parse_script(lines: list[str]) -> Script:
    turns: list[tuple[list[str], list[str]]] = []
    for line in lines:
        mark, text = line[:3], line[3:]
        if mark == "Q: ":
            if not turns or turns[-1][1]:
                turns.append(([], []))
            turns[-1][0].append(text)
        elif mark == "A: " and turns:
            turns[-1][1].append(text)
        else:
            raise ValueError(f"neither a question nor an answer: {line!r}")
    return tuple(Turn(tuple(questions), tuple(answers)) for questions, answers in turns)
