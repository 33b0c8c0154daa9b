"""The corpus: templates, topics, and that everything in it is well formed."""

import operator
import random
import re
from pathlib import Path

import pytest

from engine.builtin.corpus.documents import HERE, Message, documents
from engine.builtin.corpus.grammar import expand, play, read_scripts
from engine.builtin.corpus.numbers import Numbers, in_words

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
SCRIPTS = ("tramontane.txt", "self.txt", "facts.txt", "verses.txt", "chinese.txt")


@pytest.fixture(scope="module")
def sample() -> list[str | list[Message]]:
    return list(documents(3000, seed=1))


def test_alternatives_nest_and_may_be_empty():
    readings = {expand("{a|b{c|}}d", random.Random(seed)) for seed in range(50)}
    assert readings == {"ad", "bcd", "bd"}


def test_doubled_angles_are_braces():
    assert expand('<<"a": 1>>', random.Random(0)) == '{"a": 1}'


def test_a_line_that_is_neither_question_nor_answer_is_refused(tmp_path: Path):
    path = tmp_path / "bad.txt"
    path.write_text("Q: one\nB: two\n")
    with pytest.raises(ValueError, match="B: two"):
        read_scripts(path)


def test_a_script_of_two_turns_is_played_in_order(tmp_path: Path):
    path = tmp_path / "two.txt"
    path.write_text("# comment\nQ: One!\nA: 1\nQ: Two!\nA: 2\n")
    [script] = read_scripts(path)
    assert [answer for _, answer in play(script, random.Random(0))] == ["1", "2"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_turn_of_a_script_has_questions_and_answers(name: str):
    for script in read_scripts(HERE / name):
        assert all(turn.questions and turn.answers for turn in script), script


def test_the_same_seed_writes_the_same_documents(sample: list[str | list[Message]]):
    assert list(documents(100, seed=1)) == sample[:100]
    assert list(documents(100, seed=2)) != sample[:100]


def test_no_template_mark_is_left_in_a_document(sample: list[str | list[Message]]):
    texts = [d if isinstance(d, str) else "\n".join(m.content for m in d) for d in sample]
    assert not [text for text in texts if re.search(r"\$\w|@\w+\(|<<|>>|\{[^}]*\|", text)]


def test_chats_alternate_and_end_with_the_assistant(sample: list[str | list[Message]]):
    for chat in (document for document in sample if not isinstance(document, str)):
        roles = [message.role for message in chat if message.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message.content for message in chat)


@pytest.mark.parametrize(
    ("number", "words"), [(0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety-nine")]
)
def test_numbers_are_spelled(number: int, words: str):
    assert in_words(number) == words


def test_every_sum_in_the_corpus_is_right():
    rng, num_checked = random.Random(0), 0
    topic = Numbers({"honest sum": ["too hard"]})
    for _ in range(500):
        [(_, answer)] = topic.small_sum(rng)
        if match := re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (-?\d+)", answer):
            left, sign, right, result = match.groups()
            assert APPLY[sign](int(left), int(right)) == int(result)
            num_checked += 1
    assert num_checked > 300
