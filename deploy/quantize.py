"""`tramontane quantize`: a model in, a packed one out: a GGUF file or a safetensors directory."""

import argparse
import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from deploy import settings
from deploy.errors import StartError
from engine.errors import EngineError, LoadError
from engine.progress_bar import Bar
from engine.weights.files import ModelFiles, resolve
from workers.config import WorkerConfig, model_ref
from workers.environment import load

SUMMARY = "write a model quantised: a GGUF file, which llama.cpp reads too, or a directory"
SOURCE = settings.part_of(
    WorkerConfig, ("model", "kind", "model_file", "tokenizer", "arch", "token_source", "imatrix")
)
CONFIGS: tuple[settings.Config, ...] = (SOURCE,)
_SINGLE_FILE = "model.safetensors"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The type and the name; the model is a setting's flag."""
    parser.add_argument(
        "--type",
        required=True,
        help="of a GGUF file F16, BF16, Q4_0 ... Q8_0, Q6_K, Q4_K_M ... as in llama.cpp, or one "
        "format, Q4K or 4; of a directory the types of --isq: Q4K, Q8_0, FP8, 4 ...",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="NAME",
        help="FILE.gguf, or a directory that is made, of config.json, tokenizer and "
        "model.safetensors, which is served with `plain -m` and not quantised again",
    )


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the file or the directory, and say what is in it. Raises StartError."""
    path = Path(values.output).expanduser()
    try:
        write = _write_gguf if path.suffix == ".gguf" else _write_directory
        path, kinds = write(values.type, path, environ)
    except EngineError as error:
        raise StartError(str(error)) from error
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())
    print(f"{path}: {_size(path) / 1e6:.1f} MB, {len(kinds)} tensors: {counts}")
    return 0


def _write_gguf(kind: str, path: Path, environ: Mapping[str, str]) -> tuple[Path, list[str]]:
    """Refuses a type before it fetches a model, as the other one does."""
    # Here, because the command line is read without torch.
    from engine.weights.gguf_mixture import find_scheme
    from engine.weights.gguf_writer import open_source, write_gguf

    scheme = find_scheme(kind)
    worker = _settings(environ)
    source = open_source(_files(worker, environ))
    with contextlib.closing(Bar(f"Writing {path.name}")) as bar:
        types = write_gguf(source, scheme, path, bar, worker.imatrix)
    return path, [written.name for written in types.values()]


def _write_directory(kind: str, path: Path, environ: Mapping[str, str]) -> tuple[Path, list[str]]:
    from engine.quant.registry import find_format
    from engine.weights.packed_writer import write_packed

    form = find_format(kind)
    directory = _directory(path)
    worker = _settings(environ)
    files = _files(worker, environ)
    with contextlib.closing(Bar(f"Writing {directory.name}")) as bar:
        kinds = write_packed(files, form, directory, bar, imatrix=worker.imatrix)
    return directory, [written or "unpacked" for written in kinds.values()]


def _directory(path: Path) -> Path:
    """`DIR/model.safetensors` is DIR. Raises LoadError for other files."""
    if path.suffix != ".safetensors":
        return path
    if path.name != _SINGLE_FILE or path.parent == Path():
        raise LoadError(
            f"{path} would be weights without config.json and tokenizer; name the directory to "
            f"make for all three, or DIRECTORY/{_SINGLE_FILE}."
        )
    return path.parent


def _size(path: Path) -> int:
    """Of a file, or of the weights in a directory."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _settings(environ: Mapping[str, str]) -> WorkerConfig:
    """Those of this command alone: others may make no sense and are none of its business."""
    own = {flag.setting.variable for flag in settings.flags_of(CONFIGS)}
    return load(WorkerConfig, {name: value for name, value in environ.items() if name in own})


def _files(worker: WorkerConfig, environ: Mapping[str, str]) -> ModelFiles:
    ref = model_ref(worker)
    with contextlib.closing(Bar(f"Downloading {ref.model}")) as bar:
        return resolve(ref, bar, environ)
