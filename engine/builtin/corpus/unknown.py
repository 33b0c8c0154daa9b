"""Questions beyond the model, each with an honest answer. Knows no answers."""

import random
from pathlib import Path

from engine.builtin.corpus.grammar import ask, expand, read_lines, read_paragraphs
from engine.builtin.corpus.people import Names

WEIGHTS = {"thing": 20, "person": 12, "capital": 16, "task": 18, "now": 8, "odd": 24, "noun": 18}
NOISE_SHARE = 0.06
Chat = list[tuple[str, str]]


class Unknown:
    """Holds the subjects; each call asks about another one."""

    def __init__(
        self, path: Path, nouns_path: Path, names: Names, phrases: dict[str, list[str]]
    ) -> None:
        self._subjects = read_lines(path)
        nouns = " ".join(line for lines in read_paragraphs(nouns_path) for line in lines)
        self._subjects["noun"] = nouns.split()
        self._names = names
        self._phrases = phrases

    def chat(self, rng: random.Random) -> Chat:
        """A question and the model's honest answer."""
        if rng.random() < NOISE_SHARE:
            words = rng.choices(self._subjects["noun"], k=rng.randint(2, 9))
            return [(" ".join(words), rng.choice(self._phrases["honest know"]))]
        [group] = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
        subject = self._subject(group, rng)
        question = expand(rng.choice(self._phrases[f"ask {group}"]), rng).replace("$x", subject)
        honest = self._phrases.get(f"honest {group}", self._phrases["honest know"])
        return [(ask(question, rng), rng.choice(honest).replace("$x", subject))]

    def _subject(self, group: str, rng: random.Random) -> str:
        if group == "person" and rng.random() < 0.3:
            return f"{self._names.any(rng)} {self._names.any(rng)}"
        if group == "capital" and rng.random() < 0.3:
            return self._names.any(rng) + rng.choice(("ia", "land", "stan", "", "a"))
        subject = rng.choice(self._subjects[group])
        while "$place" in subject:
            subject = subject.replace("$place", rng.choice(self._subjects["place"]), 1)
        return subject
