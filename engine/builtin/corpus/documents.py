"""Puts the topics together to documents: chats of one or more turns, and plain text."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.builtin.corpus.capitals import Capitals
from engine.builtin.corpus.grammar import expand, play, read_lines, read_scripts
from engine.builtin.corpus.numbers import Numbers
from engine.builtin.corpus.people import Names, People
from engine.builtin.corpus.stories import StoryTeller
from engine.builtin.corpus.unknown import Unknown

HERE = Path(__file__).parent
PLAIN_TEXT_SHARE = 0.02
NAMED_MODEL_SHARE = 0.02
SYSTEM_SHARE = 0.25
NUM_EARLIER_TURNS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3)
Chat = list[tuple[str, str]]
Topic = Callable[[random.Random], Chat]


@dataclass(frozen=True)
class Message:
    """One message of a chat; role is system, user or assistant."""

    role: str
    content: str


Document = str | list[Message]


def documents(num_documents: int, seed: int) -> Iterator[Document]:
    """The same documents for the same seed."""
    writer = Writer()
    rng = random.Random(seed)
    for _ in range(num_documents):
        yield writer.document(rng)


class Writer:
    """Holds every topic with its weight."""

    def __init__(self) -> None:
        names, self._phrases = Names(), read_lines(HERE / "phrases.txt")
        stories = StoryTeller(HERE / "stories.txt", names, self._phrases)
        unknown = Unknown(HERE / "unknown.txt", HERE / "nouns.txt", names, self._phrases)
        capitals = Capitals(HERE / "capitals.txt", self._phrases)
        numbers = Numbers(self._phrases)
        self._people = People(names, self._phrases)
        about_tramontane = self._scripts("tramontane.txt")
        self._plain: dict[Topic, float] = {about_tramontane: 1, stories.short: 2, stories.long: 1}
        # topics with short answers, which may also stand before and between others
        self._short: dict[Topic, float] = {
            about_tramontane: 26,
            self._scripts("self.txt"): 13,
            self._scripts("facts.txt"): 20,
            self._scripts("chinese.txt"): 6,
            self._scripts("verses.txt"): 3,
            unknown.chat: 30,
            numbers.small_sum: 26,
            capitals.one: 7,
            self._people.no_name: 1,
        }
        self._all: dict[Topic, float] = {
            **self._short,
            stories.short: 5,
            stories.long: 1.5,
            numbers.counting: 8,
            capitals.some: 1.5,
            lambda rng: self._people.my_name(rng, self._turns(rng.choice((0, 0, 1, 2)), rng)): 4,
            lambda rng: self._people.favourite(rng, self._turns(rng.choice((0, 1)), rng)): 1.5,
            lambda rng: self._people.repeat(rng, self._turns(1, rng)): 2,
            lambda rng: self._people.echo(rng, self._turns(1, rng)): 8,
        }

    def document(self, rng: random.Random) -> Document:
        """One chat of one or more turns, or one plain text."""
        roll = rng.random()
        if roll < PLAIN_TEXT_SHARE:
            return _pick(self._plain, rng)(rng)[-1][1]
        if roll < PLAIN_TEXT_SHARE + NAMED_MODEL_SHARE:
            system, chat = self._people.named_model(rng)
            return _messages(system, chat + self._turns(rng.choice((0, 0, 1)), rng))
        system = ""
        if rng.random() < SYSTEM_SHARE:
            system = expand(rng.choice(self._phrases["system"]), rng)
        chat = self._turns(rng.choice(NUM_EARLIER_TURNS), rng) + _pick(self._all, rng)(rng)
        return _messages(system, chat)

    def _turns(self, num_turns: int, rng: random.Random) -> Chat:
        return [turn for _ in range(num_turns) for turn in _pick(self._short, rng)(rng)]

    @staticmethod
    def _scripts(name: str) -> Topic:
        scripts = read_scripts(HERE / name)
        weights = [len(script[0].questions) for script in scripts]
        return lambda rng: list(play(rng.choices(scripts, weights)[0], rng))


def _pick(topics: Mapping[Topic, float], rng: random.Random) -> Topic:
    return rng.choices(list(topics), weights=list(topics.values()))[0]


def _messages(system: str, chat: Chat) -> list[Message]:
    messages = [Message("system", system)] if system else []
    for question, answer in chat:
        messages += [Message("user", question), Message("assistant", answer)]
    return messages
