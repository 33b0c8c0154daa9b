"""Perplexity per type of weights: our engine beside llama.cpp, for two models of this repository.

    python tests/bench/perplexity.py --directory DIR [--llama-python VENV/bin/python] [--out FILE]

The models are the built-in one, with new draws of its corpus (the words of its answers), and one
of eleven million parameters that is trained on docstrings when DIR has none yet, with modules that
it has not seen. Every matrix has the one type, embeddings too. A type's columns:

    float, int8   our file in our engine, activations as they are or rounded to 8 bits
    llama.cpp     llama.cpp's file, from the same float32 one, in llama.cpp
    its file      llama.cpp's file in our engine, float: what remains is the engine's difference
    over          the larger of float and int8 over llama.cpp's, in per cent

HQQ and FP8 are no types of GGUF files: their weights are measured as float32. Without
llama-cpp-python its columns are empty. Listed, with an exit status of 1, is what is more than one
per cent over llama.cpp's, and what is out of order: no type may be better by half a per cent than
one that has at least a bit more for a weight. The machine's speed or load do not matter.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import engine.builtin  # noqa: E402
from engine.builtin.tokens import encode_document  # noqa: E402
from engine.builtin.train import Example  # noqa: E402
from engine.quant.fp8 import FP8  # noqa: E402
from engine.quant.hqq import HQQ4, HQQ8  # noqa: E402
from tests.bench import perplexity_model  # noqa: E402
from tests.bench.perplexity_ours import (  # noqa: E402
    Rounded,
    file_type,
    is_packed,
    load,
    open_model,
    perplexity,
    write_type,
)
from tests.bench.perplexity_rows import Row, problems, table  # noqa: E402
from tests.bench.perplexity_text import library_texts, unseen_chats  # noqa: E402
from tests.bench.report import record  # noqa: E402

FILE_TYPES = (
    *(Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q6_K, Type.Q5_K, Type.Q5_1, Type.Q5_0),
    *(Type.Q4_K, Type.Q4_1, Type.Q4_0, Type.MXFP4, Type.Q3_K, Type.Q2_K),
)
WHOLE_MATRIX = {HQQ8: 9.0, FP8: 8.0, HQQ4: 5.0}  # bits for a weight, with scales and zeros
PEER = Path(__file__).with_name("perplexity_peer.py")
NUM_CHATS, NUM_WINDOWS = 64, 32


class Subject(NamedTuple):
    """A model and what it is measured with."""

    name: str
    directory: Path
    texts: list[Example]


def subjects(directory: Path) -> Iterator[Subject]:
    """The built-in model and the one in `directory`, which is trained if it is not there."""
    builtin = Path(engine.builtin.__file__).parent
    tokenizer = Tokenizer.from_file(str(builtin / "tokenizer.json"))
    chats = [Example(*encode_document(tokenizer, chat)) for chat in unseen_chats(NUM_CHATS)]
    yield Subject("built-in, 2.8 M", builtin, chats)
    trained = directory / "docstrings"
    if not (trained / "config.json").exists():
        perplexity_model.make(trained)
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
    windows = list(perplexity_model.windows(tokenizer, library_texts()[1]))
    chosen = [ids for ids in windows if len(ids) > 1][:: len(windows) // NUM_WINDOWS]
    yield Subject("docstrings, 11.5 M", trained, list(map(whole, chosen)))


def whole(ids: list[int]) -> Example:
    """A text of which every token but the first is a target."""
    return Example(ids, [False] + [True] * (len(ids) - 1))


def measure_all(subject: Subject, peer: str) -> list[Row]:
    """All rows of a model, printed as they come. For a process of its own, of one thread."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for row in measure(subject, peer, Path(work)):
            rows.append(row)
            print(row, flush=True)
    return rows


def measure(subject: Subject, peer: str, work: Path) -> Iterator[Row]:
    """A row for each type. `peer` is a Python with llama-cpp-python, or empty."""
    plain, texts = work / "F32.gguf", work / "texts.json"
    write_type(subject.directory, Type.F32, plain)
    texts.write_text(json.dumps([[text.token_ids, text.is_target] for text in subject.texts]))
    for kind in FILE_TYPES:
        ours = plain if kind is Type.F32 else write_type(plain, kind, work / f"{kind.name}.gguf")
        exact, rounded = by_us(ours, subject.texts)
        theirs = by_llama_cpp(peer, plain, kind, work) if peer else None
        num_weights, num_bytes = GGML_QUANT_SIZES[kind]
        yield Row(
            model=subject.name,
            type=kind.name,
            bits=8 * num_bytes / num_weights,
            exact=exact,
            int8=rounded,
            llama_cpp=measure_by_llama_cpp(peer, theirs, texts) if theirs else None,
            its_file=by_us(theirs, subject.texts)[0] if theirs else None,
        )
    for form, bits in WHOLE_MATRIX.items():
        model = load(Rounded(open_model(subject.directory), form), is_exact=True)
        yield Row(subject.name, form.name, bits, perplexity(model, subject.texts))


def by_us(path: Path, texts: Sequence[Example]) -> tuple[float, float | None]:
    """With float activations and with int8 ones; None where there is no such product."""
    exact = perplexity(load(open_model(path), is_exact=True), texts)
    model = load(open_model(path), is_exact=False)
    return exact, perplexity(model, texts) if is_packed(model) else None


def by_llama_cpp(peer: str, plain: Path, kind: Type, work: Path) -> Path:
    """llama.cpp's file of a type."""
    if kind is Type.F32:
        return plain
    out = work / f"{kind.name}.llama.cpp.gguf"
    _run([peer, PEER, "quantize", plain, out, int(file_type(kind))])
    return out


def measure_by_llama_cpp(peer: str, path: Path, texts: Path) -> float:
    """The perplexity of a file."""
    return float(json.loads(_run([peer, PEER, "measure", path, texts])))


def _run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def can_import_llama_cpp(python: str) -> bool:
    """Whether there is something to compare with."""
    probe = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True)
    return not probe.returncode


def main() -> None:
    """Measure, print, and write the table beside the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="keeps the trained model")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--out", default="", help="adds the results to this JSON lines file")
    args = parser.parse_args()
    peer = args.llama_python if can_import_llama_cpp(args.llama_python) else ""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(measure_all, subjects(args.directory), repeat(peer))
        rows = [row for of_a_model in found for row in of_a_model]
    del args.directory, args.llama_python
    result = {f"{row.model} {row.type} {name}": v for row in rows for name, v in row.figures()}
    wrong = problems(rows)
    text = "\n\n".join([table(rows), *wrong, record("perplexity", result, args)])
    print(text)
    if args.out:
        head = "By `tests/bench/perplexity.py`, whose docstring says what the columns are."
        Path(args.out).with_suffix(".md").write_text(f"{head}\n\n{text}\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
