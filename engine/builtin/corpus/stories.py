"""Short and long stories about a named hero, put together from the parts in stories.txt."""

import random
from collections.abc import Sequence
from pathlib import Path
from string import Template

from engine.builtin.corpus.grammar import ask, expand, read_sections
from engine.builtin.corpus.people import Names

Chat = list[tuple[str, str]]


class StoryTeller:
    """Holds the parts; each call tells another story."""

    def __init__(self, path: Path, names: Names, phrases: dict[str, list[str]]) -> None:
        self._parts = read_sections(path)
        self._names = names
        self._phrases = phrases

    def short(self, rng: random.Random) -> Chat:
        """A story of one paragraph."""
        return self._tell(self._phrases["ask short story"], ["short"], rng)

    def long(self, rng: random.Random) -> Chat:
        """A story of one paragraph from each part, more than 600 tokens."""
        parts = [part for part in self._parts if part != "short"]
        return self._tell(self._phrases["ask long story"], parts, rng)

    def _tell(self, ways: Sequence[str], parts: Sequence[str], rng: random.Random) -> Chat:
        hero, name = self._names.hero(rng), self._names.common(rng)
        question = ask(rng.choice(ways), rng)
        if rng.random() < 0.5:
            about = f"a {hero} called {name}" if rng.random() < 0.3 else f"a {hero}"
            question = f"{question.rstrip('?.!')} about {about}{rng.choice(('.', '?', '', '.'))}"
        text = "\n\n".join(expand(rng.choice(self._parts[part]), rng) for part in parts)
        return [(question, Template(text).substitute(hero=hero, name=name))]
