"""Chats that need memory: names, favourites, and words to be said again. Knows no other facts."""

import random
from collections.abc import Sequence
from pathlib import Path

from engine.builtin.corpus.grammar import expand, read_lines

HERE = Path(__file__).parent
FAVOURITES = (
    ("colour", "red blue green yellow black white orange purple brown pink"),
    ("animal", "cat dog horse bird fish bear lion owl rabbit mouse"),
    ("number", "1 2 3 4 5 6 7 8 9 10 11 12 42 100"),
    ("food", "pizza bread rice soup cheese pasta cake fruit"),
)
Chat = list[tuple[str, str]]


class Names:
    """Gives names of people and of the heroes of stories."""

    def __init__(self) -> None:
        lines = read_lines(HERE / "names.txt")
        self._words = {group: " ".join(parts).split() for group, parts in lines.items()}

    def common(self, rng: random.Random) -> str:
        """A name that real people have."""
        return rng.choice(self._words["common"])

    def hero(self, rng: random.Random) -> str:
        """What a story's hero is, for example a cat."""
        return rng.choice(self._words["hero"])

    def any(self, rng: random.Random) -> str:
        """A common name, or a made-up one."""
        if rng.random() < 0.5:
            return self.common(rng)
        return "".join(rng.choice(self._words[part]) for part in self._syllables(rng))

    def row(self, rng: random.Random) -> str:
        """Up to 20 names and numbers in no order: text that can only be copied."""
        parts = (self.common, self.hero, self.any, lambda rng: str(rng.randint(0, 100)))
        return " ".join(rng.choice(parts)(rng) for _ in range(rng.randint(1, 20)))

    @staticmethod
    def _syllables(rng: random.Random) -> Sequence[str]:
        if rng.random() < 0.5:
            return "start", "vowel", "end"
        return "start", "vowel", "end", "vowel", "end"


class People:
    """Writes the chats; `before` and `between` are chats about anything else."""

    def __init__(self, names: Names, phrases: dict[str, list[str]]) -> None:
        self._names = names
        self._phrases = phrases

    def my_name(self, rng: random.Random, between: Chat) -> Chat:
        """The user gives a name and asks for it later."""
        name = self._names.any(rng)
        hello, greeting = self._say("say my name", name, rng), self._say("greet", name, rng)
        asked = self._say("ask my name", name, rng)
        return [(hello, greeting), *between, (asked, f"Your name is {name}.")]

    def no_name(self, rng: random.Random) -> Chat:
        """The user asks for a name that was never given."""
        asked = self._say("ask my name", "", rng)
        return [(asked, "I do not know your name. You have not told me.")]

    def named_model(self, rng: random.Random) -> tuple[str, Chat]:
        """(system message, chat) in which the system message gives the model a name."""
        name = self._names.any(rng)
        answer = f"I am {name}, played by the tiny demonstration model of Tramontane."
        return self._say("give a name", name, rng), [
            (self._say("ask your name", name, rng), answer)
        ]

    def favourite(self, rng: random.Random, between: Chat) -> Chat:
        """The user tells a favourite and asks for it later."""
        kind, things = rng.choice(FAVOURITES)
        thing = rng.choice(things.split())
        asked = rng.choice((f"What is my favourite {kind}?", f"which {kind} do I like best?"))
        return [
            (f"My favourite {kind} is {thing}.", f"{thing.capitalize()} is a good choice."),
            *between,
            (asked, f"Your favourite {kind} is {thing}."),
        ]

    def repeat(self, rng: random.Random, before: Chat) -> Chat:
        """The user wants the last answer again, or to be reminded of the last question."""
        question, answer = before[-1]
        if rng.random() < 0.6:
            return [*before, (self._say("ask again", "", rng), answer)]
        return [*before, (self._say("ask what I said", "", rng), f'You said: "{question}"')]

    def echo(self, rng: random.Random, other: Chat) -> Chat:
        """The user asks for words to be said back."""
        words = rng.choice((*other[-1], self._names.row(rng), self._names.row(rng)))
        return [(self._say("ask to say", words, rng), words)]

    def _say(self, phrase: str, name: str, rng: random.Random) -> str:
        return expand(rng.choice(self._phrases[phrase]), rng).replace("$n", name)
