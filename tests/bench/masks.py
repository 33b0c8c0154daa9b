"""Times what a grammar costs a token on a CPU, at 32,000 tokens of vocabulary.

The vocabulary is a BPE of Python's own library. Each grammar is walked along a text; a step is
timed as the engine takes it, but with no forward for the mask to hide behind. Then an engine runs
with and without a grammar (`masks_step.py`): what is longer there is what users see. Run from the
checkout: `OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/masks.py`.
"""

import argparse
import json
import statistics
import sysconfig
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend, decoders, models, pre_tokenizers, trainers

from engine.grammar import Bound, Grammars
from engine.sampling import forbid
from engine.text import grammar_text
from engine.text.decoding import parse_decoder
from engine.text.tokenizer import Tokenizer
from tests.bench.masks_step import FORWARDS_MS, NUM_SEQUENCES, step_us
from tests.bench.report import report

VOCAB_SIZE = 32_000
END = "<|end|>"
NUM_RUNS = 5
PEOPLE = [
    {"name": f"Ada {i}", "age": 30 + i, "is_here": i % 2 == 0, "mail": f"ada{i}@wind.org"}
    for i in range(12)
]
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "is_here": {"type": "boolean"},
            "mail": {"type": "string", "pattern": "^[a-z0-9.]+@[a-z]+[.](org|com)$"},
        },
        "required": ["name", "age", "is_here", "mail"],
        "additionalProperties": False,
    },
}
PROSE = "The quick brown fox, jumps over the lazy dog.\nand then: who knows, it's over!\n" * 3
REGEXES = {
    "regex": ("([A-Z][a-z ]{3,40}[.!] ?){5,50}", "The wind blew on. " * 20),
    "prose": ("([A-Za-z0-9 ,.;:'!?()-]{10,80}\n){2,20}", PROSE),
    "e-mail": ("[a-z0-9._%+-]+@[a-z0-9.-]+[.][a-z]{2,4}", "john.smith.the.third@wind.example.org"),
    "counted words": (r"(\w+ ){3,60}\w+", "the quick brown fox jumps over the lazy dog " * 4 + "x"),
    "all but a letter": ("[^x]{5,200}x", "the quick brown dog jumps over the lazy one " * 4 + "x"),
}
WALKS = {
    "object": (grammar_text.of_json_object(), json.dumps({"people": PEOPLE, "n": [1, 2.5, None]})),
    "schema": (grammar_text.of_json_schema(SCHEMA), json.dumps(PEOPLE)),
    **{name: (grammar_text.of_regex(regex), text) for name, (regex, text) in REGEXES.items()},
}
TARGETS = {f"{name}, mean us": "< 100" for name in WALKS} | {
    f"{name}, of that in the step us": "< 100" for name in WALKS
}


def train() -> Tokenizer:
    """The vocabulary."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library = Path(sysconfig.get_path("stdlib"))
    backend.train([str(path) for path in sorted(library.glob("*.py"))], trainer)
    return Tokenizer(backend, parse_decoder({"type": "ByteLevel"}), {"eos_token": END})


def walk(
    grammars: Grammars, grammar: str, ids: list[int], stop_ids: frozenset[int]
) -> list[tuple[float, float]]:
    """Seconds of each step: all of it, and the wait for the mask, which a forward hides."""
    state = grammars.compile(grammar, []).result()
    logits, times = torch.randn(1, VOCAB_SIZE), []
    for token_id in ids:
        start = time.perf_counter()
        masks = grammars.begin([Bound(0, state, stop_ids)])
        begun = time.perf_counter()
        masks.computed.result()
        waited = time.perf_counter() - begun
        forbid(logits, masks.lines, masks.forbidden())
        state.accept((token_id,))
        times.append((time.perf_counter() - start, waited))
        assert logits[0, token_id] > -torch.inf, "the text does not follow the grammar"
        logits = torch.randn(1, VOCAB_SIZE)
        assert not state.error
    return times


def main() -> None:
    """A step's time is the best of some walks: what other processes take is not in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = train()
    grammars = Grammars(lambda: tokenizer, VOCAB_SIZE)
    stop_ids = tokenizer.eos_ids
    start = time.perf_counter()
    grammars.compile("start: /a/", []).result()
    result = {"vocabulary, ms": 1e3 * (time.perf_counter() - start)}
    for name, (grammar, text) in WALKS.items():
        ids = tokenizer.encode(text, add_special_tokens=False)
        runs = [walk(grammars, grammar, ids, stop_ids) for _ in range(NUM_RUNS)]
        best = [min(times) for times in zip(*runs, strict=True)]
        result[f"{name}, mean us"] = 1e6 * statistics.mean(time_s for time_s, _ in best)
        result[f"{name}, of that in the step us"] = 1e6 * statistics.mean(
            time_s - wait_s for time_s, wait_s in best
        )
        result[f"{name}, worst us"] = 1e6 * max(time_s for time_s, _ in best)
    bound = {
        "schema": grammar_text.of_json_schema({**SCHEMA, "minItems": 50}),
        "all but a letter": WALKS["all but a letter"][0],
    }
    for name, grammar in bound.items():
        for num_sequences in NUM_SEQUENCES:
            for forward_ms in FORWARDS_MS:
                free_us, bound_us = step_us(
                    tokenizer, VOCAB_SIZE, grammar, num_sequences, forward_ms
                )
                what = f"{name}, {num_sequences} at once, forward of {forward_ms} ms"
                result[f"{what}: a step longer by us"] = bound_us - free_us
    report("masks", result, TARGETS, options)


if __name__ == "__main__":
    main()
