"""Counting and small sums. Knows no other mathematics, and says so."""

import random

from engine.builtin.corpus.grammar import expand

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SIGNS = {
    "+": "{L+R|L + R|L plus R|the sum of L and R|L and R added}",
    "-": "{L-R|L - R|L minus R|L take away R}",
    "*": "{L*R|L * R|L times R|L x R|L multiplied by R}",
    "/": "{L/R|L / R|L divided by R}",
}
ASK_SUM = "{What is S?|What is S|What's S?|S|S?|S = ?|How much is S?|Calculate S.|S =|what is S}"
MOST_SIGNS = "+++--**/"
HARD_SHARE = 0.15
SPELLED_SHARE = 0.12
Chat = list[tuple[str, str]]


def in_words(number: int) -> str:
    """A whole number from 0 to 100 in English words."""
    if number == 100:
        return "one hundred"
    if number < 20:
        return (ONES + TEENS)[number]
    tens, ones = TENS[number // 10 - 2], number % 10
    return f"{tens}-{ONES[ones]}" if ones else tens


def listed(numbers: range) -> str:
    """The numbers with commas between them."""
    return ", ".join(map(str, numbers))


class Numbers:
    """Writes chats about numbers."""

    def __init__(self, phrases: dict[str, list[str]]) -> None:
        self._too_hard = phrases["honest sum"]

    def small_sum(self, rng: random.Random) -> Chat:
        """A sum of small numbers with its result, or of large ones with an honest no."""
        sign = rng.choice(MOST_SIGNS)
        if rng.random() < HARD_SHARE:
            left, right = _large_pair(rng)
            answer = rng.choice(self._too_hard)
        else:
            left, right, result = _small_sum(sign, rng)
            answer = f"{left} {sign} {right} = {result}"
        asked = expand(ASK_SUM.replace("S", SIGNS[sign]), rng)
        return [
            (asked.replace("L", _written(left, rng)).replace("R", _written(right, rng)), answer)
        ]

    def counting(self, rng: random.Random) -> Chat:
        """Counting up, down, in words or in steps."""
        end = rng.choice(
            (10, 10, 5, 20, 100, *(rng.randint(2, most) for most in (30, 30, 60, 100)))
        )
        ways = (_up, _up, _up, _between, _down, _in_words, _in_steps, _neighbour)
        question, answer = rng.choice(ways)(end, rng)
        return [(expand(question, rng), answer)]


def _small_sum(sign: str, rng: random.Random) -> tuple[int, int, int]:
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    if sign == "*":
        return left, right, left * right
    if sign == "/":
        right = max(right, 1)
        return left * right, right, left
    if rng.random() < 0.3:
        left, right = rng.randint(0, 20), rng.randint(0, 20)
    return left, right, left + right if sign == "+" else left - right


def _large_pair(rng: random.Random) -> tuple[int, int]:
    pair = [rng.choice((rng.randint(21, 99), rng.randint(21, 9999))), rng.randint(11, 999)]
    rng.shuffle(pair)
    return pair[0], pair[1]


def _written(number: int, rng: random.Random) -> str:
    return in_words(number) if 0 <= number <= 20 and rng.random() < SPELLED_SHARE else str(number)


def _say(number: int) -> str:
    return f"{{{number}|{in_words(number)}}}"


def _up(end: int, rng: random.Random) -> tuple[str, str]:
    ways = "{Count to|Count to|Please count to|Can you count to|count up to|count to|Count up to}"
    return f"{ways} {_say(end)}{{.||}}", listed(range(1, end + 1))


def _between(end: int, rng: random.Random) -> tuple[str, str]:
    start = rng.choice((1, 1, rng.randint(0, end)))
    question = f"{{Count|List the numbers|Say the numbers}} from {_say(start)} to {_say(end)}{{.|}}"
    return question, listed(range(start, end + 1))


def _down(end: int, rng: random.Random) -> tuple[str, str]:
    end = min(end, 30)
    question = f"{{Count down|Count backwards|Countdown}} from {_say(end)}{{.|}}"
    return question, listed(range(end, -1, -1))


def _in_words(end: int, rng: random.Random) -> tuple[str, str]:
    spelled = ", ".join(in_words(number) for number in range(1, end + 1))
    return f"{{Count|count|Please count}} to {_say(end)} {{in|with}} words{{.|}}", spelled


def _in_steps(end: int, rng: random.Random) -> tuple[str, str]:
    kind, first = rng.choice((("even", 2), ("odd", 1)))
    question = f"{{List the|Say the|Name the|}} {kind} numbers {{to|up to}} {max(end, 4)}{{.|}}"
    return question, listed(range(first, max(end, 4) + 1, 2))


def _neighbour(end: int, rng: random.Random) -> tuple[str, str]:
    side, step = rng.choice((("after", 1), ("before", -1)))
    question = f"{{What comes|Which number comes|What number is}} {side} {_say(end)}{{?|}}"
    return question, str(end + step)
