"""A tekken.json gives what its ranks mean: the lowest rank is joined first, as in tiktoken."""

import base64
import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from transformers.convert_slow_tokenizer import bytes_to_unicode

from engine.errors import LoadError
from engine.text.hf_tokenizer import load_tokenizer
from tests.engine.text.published_splits import TEKKEN

NUM_SPECIAL = 10
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def ranked(train) -> list[bytes]:
    """Bytes, then what was joined, in order."""
    model = json.loads(train("tekken").to_str())["model"]
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    pieces = (bytes(byte_of[char] for char in left + right) for left, right in model["merges"])
    return [*[bytes([byte]) for byte in range(256)], *dict.fromkeys(pieces)]


@pytest.fixture
def directory(tmp_path, ranked):
    """Writes a tekken.json whose last ten ranks the model has not."""
    config = {
        "pattern": TEKKEN,
        "num_vocab_tokens": len(ranked),
        "default_vocab_size": len(ranked) - 10 + NUM_SPECIAL,
        "default_num_special_tokens": NUM_SPECIAL,
        "version": "v7",
    }
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
        for rank, piece in enumerate(ranked)
    ]
    special = [
        {"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(SPECIAL)
    ]
    special.append({"rank": 7, "token_str": "[TEXT]", "is_control": False})
    document = {"config": config, "vocab": vocab, "special_tokens": special}
    (tmp_path / "tekken.json").write_text(json.dumps(document))
    return tmp_path


def expected(text: str, ranked: list[bytes]) -> list[int]:
    ranks = {piece: rank for rank, piece in enumerate(ranked[:-10])}
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(TEKKEN), "isolated")
    words = [word.encode() for word, _ in split.pre_tokenize_str(text)]
    return [NUM_SPECIAL + ranks[part] for word in words for part in joined(word, ranks)]


def joined(word: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [word] if word in ranks else [bytes([byte]) for byte in word]
    while True:
        pairs = [
            (ranks[both], i)
            for i in range(len(parts) - 1)
            if (both := parts[i] + parts[i + 1]) in ranks
        ]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_ids_are_those_of_the_ranks(directory, ranked, any_text):
    tokenizer = load_tokenizer(directory)

    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        plain = text.replace("<", "").replace("[", "")
        ids = tokenizer.encode(plain, add_special_tokens=False)
        assert ids == expected(plain, ranked)
        assert tokenizer.decode(ids) == plain

    check()


def test_special_tokens_stand_before_the_ranks(directory):
    tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode("[INST]a[/INST][TEXT]")
    assert ids == [1, 3, NUM_SPECIAL + ord("a"), 4, 7]
    assert tokenizer.decode(ids) == "a[TEXT]"
    assert (tokenizer.bos_id, sorted(tokenizer.eos_ids)) == (1, [2])
    assert tokenizer.token_to_id("<SPECIAL_9>") == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"special_tokens": []}, "lists no special tokens"),
        ({"config": {}}, "cannot be used"),
        ({"vocab": [{"rank": 0, "token_bytes": "!"}]}, "is damaged"),
        ({"special_tokens": [{"rank": 999, "token_str": "<s>"}]}, "is damaged"),
    ],
    ids=["no special", "no config", "no base64", "special out of range"],
)
def test_a_damaged_file_is_refused(directory, change, message):
    document = json.loads((directory / "tekken.json").read_text()) | change
    (directory / "tekken.json").write_text(json.dumps(document))
    with pytest.raises(LoadError, match=message):
        load_tokenizer(directory)


@pytest.mark.parametrize("count", [10**9, -1])
def test_more_special_tokens_than_there_can_be_are_refused(directory, count):
    path = directory / "tekken.json"
    document = json.loads(path.read_text())
    document["config"]["default_num_special_tokens"] = count
    path.write_text(json.dumps(document))
    with pytest.raises(LoadError, match=r"tekken.json cannot be used: .*num_special_tokens"):
        load_tokenizer(directory)
