"""`tramontane quantize`: a model in, a GGUF file out, packed tensor by tensor."""

import argparse
import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from deploy import settings
from deploy.errors import StartError
from engine.errors import EngineError
from engine.progress_bar import Bar
from engine.weights.files import ModelFiles, resolve
from workers.config import WorkerConfig, model_ref
from workers.environment import load

SUMMARY = "write a model as a GGUF file, quantised; llama.cpp reads it too"
CONFIGS: tuple[settings.Config, ...] = (WorkerConfig,)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The type and the file; the model is a setting's flag."""
    parser.add_argument(
        "--type",
        required=True,
        help="F16, BF16, Q4_0 ... Q8_0, Q6_K, Q4_K_M ... as in llama.cpp; Q4K or 4: one format",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE.gguf")


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the file and say what is in it. Raises StartError."""
    # Here, because the command line is read without torch.
    from engine.weights.gguf_mixture import find_scheme
    from engine.weights.gguf_writer import open_source, write_gguf

    path = Path(values.output).expanduser()
    try:
        scheme = find_scheme(values.type)
        worker = load(WorkerConfig, environ)
        _check_unused(worker)
        source = open_source(_files(worker, environ))
        with contextlib.closing(Bar(f"Writing {path.name}")) as bar:
            types = write_gguf(source, scheme, path, bar, worker.imatrix)
    except EngineError as error:
        raise StartError(str(error)) from error
    counts = Counter(kind.name for kind in types.values())
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(types)} tensors: {listed}")
    return 0


def _check_unused(worker: WorkerConfig) -> None:
    if worker.isq or worker.topology:
        raise StartError("--isq and --topology are for serving; here --type says what to write")


def _files(worker: WorkerConfig, environ: Mapping[str, str]) -> ModelFiles:
    ref = model_ref(worker)
    with contextlib.closing(Bar(f"Downloading {ref.model}")) as bar:
        return resolve(ref, bar, environ)
