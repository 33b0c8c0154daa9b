"""Countries and their capitals, asked in both directions and one after another."""

import random
from pathlib import Path

from engine.builtin.corpus.grammar import ask, read_paragraphs

Chat = list[tuple[str, str]]


class Capitals:
    """Holds the table; each call asks for another entry."""

    def __init__(self, path: Path, phrases: dict[str, list[str]]) -> None:
        lines = [line for paragraph in read_paragraphs(path) for line in paragraph]
        self._pairs = [tuple(line.split(", ")) for line in lines]
        self._phrases = phrases

    def one(self, rng: random.Random) -> Chat:
        """The capital of a country, now and then the country of a capital."""
        country, city = rng.choice(self._pairs)
        if rng.random() < 0.1:
            question = f"{city} is the capital of which country"
        else:
            question = rng.choice(self._phrases["ask city"]).replace("$c", country)
        return [(ask(question, rng), f"{city} is the capital of {country}.")]

    def some(self, rng: random.Random) -> Chat:
        """One country, and then others in fewer words."""
        return self.one(rng) + [self._next(rng) for _ in range(rng.choice((1, 1, 2)))]

    def _next(self, rng: random.Random) -> tuple[str, str]:
        country, city = rng.choice(self._pairs)
        question = rng.choice(self._phrases["ask next city"]).replace("$c", country)
        return ask(question, rng), f"{city} is the capital of {country}."
