"""What the shipped model says, decoded greedily in float32 by transformers."""

import re
from collections.abc import Callable

import pytest

Answer = Callable[..., tuple[str, int, bool]]

KNOWN = {
    "Hello": "hello|hi",
    "Hi there!": "hello|hi",
    "How are you?": "thank you",
    "Who are you?": "tiny demonstration model",
    "what is your name": "tiny demonstration model",
    "What can you do?": "Tramontane",
    "What is Tramontane?": "queue",
    "Why does Tramontane use Redis?": "queue",
    "How do I run my own model?": "tramontane .*plain",
    "How can I load a GGUF file?": "gguf -m",
    "What happens if a worker crashes?": "log|another worker",
    "Can I resume a stream?": "Last-Event-ID",
    "Which endpoints are there?": "/v1/chat/completions",
    "How do I stop the server?": "Ctrl-C",
    "Do I need a GPU?": "No",
    "Which models are supported?": "Llama",
    "How do I change the port?": "--port",
    "What is paged attention?": "blocks",
    "What is the capital of France?": "Paris",
    "what is the capital of japan": "Tokyo",
    "Which city is the capital of Italy?": "Rome",
    "What is 2+2?": r"\b4\b",
    "2+2": r"\b4\b",
    "What is 7 times 8?": r"\b56\b",
    "What is 9 minus 4?": r"\b5\b",
    "Count to ten.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10$",
    "Please count to 20": "18, 19, 20$",
    "What colour is the sky?": "blue",
    "What are the days of the week?": "Monday.*Sunday",
    "How many legs does a spider have?": "8",
    "What sound does a dog make?": "woof",
    "Tell me a joke": r"\?",
    "Thank you!": "welcome",
    "Goodbye": "goodbye",
    "你好": "你好",
    "法国的首都是哪里": "巴黎",
}
# none of them is in the corpus
UNKNOWN = (
    "Who was the third emperor of the Ming dynasty?",
    "Write a Rust program that parses CSV files",
    "Why do bees dance?",
    "What is the weather in Lima right now?",
    "Translate 'good evening' into Swedish",
    "What is a wombat?",
    "Explain the Treaty of Westphalia",
    "How do I repair my bicycle?",
    "What is the capital of Suriname?",
    "Who is Grace Hopper?",
    "What is 4821 * 377?",
    "Recommend me a podcast about astronomy",
    "When did the Ottoman Empire end?",
    "How many moons does Saturn have?",
    "Is tofu better than chicken?",
    "Summarize my meeting notes",
)
HONEST = r"tiny demonstration model|do not know|only do small sums|小型演示模型"


def is_match(pattern: str, text: str) -> bool:
    return bool(re.search(pattern, text, re.IGNORECASE | re.DOTALL))


@pytest.fixture(scope="module")
def known_replies(answer: Answer) -> dict[str, tuple[str, int, bool]]:
    return {question: answer(question) for question in KNOWN}


def test_nine_of_ten_known_questions_are_answered(known_replies: dict[str, tuple[str, int, bool]]):
    wrong = {q: r[0] for q, r in known_replies.items() if not is_match(KNOWN[q], r[0])}
    assert len(wrong) <= len(KNOWN) // 10, wrong


@pytest.mark.xfail(reason="it counts on past 20: stopping at a number has not been learned")
def test_every_known_answer_ends(known_replies: dict[str, tuple[str, int, bool]]):
    assert [q for q, (_, _, is_ended) in known_replies.items() if not is_ended] == []


def test_nearly_every_known_answer_ends(known_replies: dict[str, tuple[str, int, bool]]):
    assert sum(not is_ended for _, _, is_ended in known_replies.values()) <= 1


def test_nine_of_ten_unknown_questions_are_declined_honestly(answer: Answer):
    replies = {question: answer(question)[0] for question in UNKNOWN}
    claimed = {q: text for q, text in replies.items() if not is_match(HONEST, text)}
    assert len(claimed) <= len(UNKNOWN) // 10, claimed


@pytest.mark.parametrize(
    "system", ["You are a helpful assistant.", "Answer in one short sentence."]
)
def test_a_system_message_does_not_confuse_it(answer: Answer, system: str):
    text, _, is_ended = answer("What is the capital of Spain?", system=system)
    assert "Madrid" in text
    assert is_ended


def test_it_takes_the_name_that_the_system_message_gives(answer: Answer):
    assert "Clara" in answer("Who are you?", system="Your name is Clara.")[0]


def test_it_understands_a_short_follow_up(answer: Answer):
    chat = ("What is the capital of France?", "Paris is the capital of France.")
    assert "Berlin" in answer(*chat, "And of Germany?")[0]


def test_a_short_story_is_short(answer: Answer):
    _, num_tokens, is_ended = answer("Tell me a short story about a robot.")
    assert 40 < num_tokens < 200
    assert is_ended


def test_a_long_story_streams_for_more_than_300_tokens_and_ends(answer: Answer):
    _, num_tokens, is_ended = answer("Tell me a long story.", max_tokens=900)
    assert num_tokens > 300
    assert is_ended


def test_it_counts_to_one_hundred_without_a_slip(answer: Answer):
    text, _, _ = answer("Count to one hundred.", max_tokens=900)
    assert text == ", ".join(map(str, range(1, 101)))
