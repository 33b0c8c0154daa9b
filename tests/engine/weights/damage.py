"""Damages a small model file in many ways and reads each; fails on anything but a LoadError.

    python tests/engine/weights/damage.py FORM DIRECTORY COUNT [SEED]

FORM is one of FORMS below. Reads headers, configuration, vocabulary, and every tensor, with no more
than 100 MB beyond what the process has when it begins and 2 s each. Prints how many files could be
read and how many not.
"""

import json
import random
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from engine.errors import LoadError
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.ggml_vocab import read_ggml_vocab
from engine.weights.selection import Kind
from tests.engine.weights.prequantised_files import compressed_ints, fp8, gptq

MEMORY_BYTES = 100 << 20
SECONDS = 2
GQA = 4
HUGE = (0, 1, 2, 0x7F, 0xFF, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, (1 << 64) - 1)
Write = Callable[[Path], None]
ROWS = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)


def gguf_file(path: Path) -> None:
    """A little of everything: each type of value, arrays, plain and packed tensors."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_custom_alignment(32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(8)])
    writer.add_token_scores([0.5] * 8)
    writer.add_array("flags", [True, False])
    writer.add_uint16("split.count", 1)
    writer.add_uint16("split.no", 0)
    writer.add_float64("real", 0.1)
    writer.add_tensor("token_embd.weight", quantize(ROWS, Type.Q8_0), raw_dtype=Type.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", ROWS.astype(np.float16))
    writer.add_tensor("blk.0.ffn_up.weight", quantize(ROWS, Type.Q4_0), raw_dtype=Type.Q4_0)
    writer.add_tensor("output_norm.weight", ROWS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ggml_file(path: Path) -> None:
    """GGJT 3, the tensors that its configuration needs."""
    data = bytearray(b"tjgg" + struct.pack("<8I", 3, 8, 32, 256, 4, 1, 8, 2))
    for i in range(8):
        data += struct.pack("<I2sf", 2, b"t%d" % i, 0.5)
    names = ("tok_embeddings", "layers.0.attention.wk", "layers.0.feed_forward.w1", "norm")
    for name in (f"{name}.weight".encode() for name in names):
        data += struct.pack("<5I", 2, len(name), int(Type.Q4_0), 32, 8) + name
        data += bytes(-len(data) % 32) + quantize(ROWS, Type.Q4_0).tobytes()
    path.write_bytes(data)


def safetensors_file(path: Path) -> None:
    """With a config.json beside it, and metadata."""
    names = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.norm")
    tensors = {f"{name}.weight": ROWS.astype(np.float16) for name in names}
    save_file(tensors, path, metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "hidden_size": 32,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }
    (path.parent / "config.json").write_text(json.dumps(config))


def quantised_file(quantization: Mapping[str, object], parts: dict[str, torch.Tensor]) -> Write:
    """A safetensors file with one matrix that another tool has quantised."""

    def write(path: Path) -> None:
        safetensors_file(path)
        plain = {"model.norm.weight": torch.ones(32)}
        stem = "model.layers.0.self_attn.q_proj"
        save_torch({**plain, **{f"{stem}.{word}": part for word, part in parts.items()}}, path)
        config = json.loads((path.parent / "config.json").read_text())
        config["quantization_config"] = quantization
        (path.parent / "config.json").write_text(json.dumps(config))

    return write


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}
INTS = {"weights": {"num_bits": 4, "group_size": 32}}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": INTS},
}

PLAIN: tuple[Kind, str] = ("plain", "model.safetensors")
FORMS: dict[str, tuple[Kind, str, Write]] = {
    "gguf": ("gguf", "model.gguf", gguf_file),
    "ggml": ("ggml", "model.bin", ggml_file),
    "safetensors": (*PLAIN, safetensors_file),
    "gptq": (*PLAIN, quantised_file(GPTQ, gptq(ROWS)[0])),
    "fp8": (*PLAIN, quantised_file(FP8, fp8(ROWS, (16, 16))[0])),
    "compressed": (*PLAIN, quantised_file(COMPRESSED, compressed_ints(ROWS, 4, 32)[0])),
}


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations of the kinds below."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((flip, truncate, set_number, swap, repeat, replace_digits))(data, rng)
    return data


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def set_number(data: bytes, rng: random.Random) -> bytes:
    """A length, a count or a type becomes a huge or a small one."""
    size = rng.choice((1, 4, 8))
    number = (rng.choice(HUGE) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    place = rng.randrange(len(data))
    return data[:place] + number.to_bytes(size, "little") + data[place + size :]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Two fields change places."""
    size = rng.choice((1, 4, 8, 16))
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    if first + size > second:
        return data
    one, two = data[first : first + size], data[second : second + size]
    return data[:first] + two + data[first + size : second] + one + data[second + size :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A stretch comes twice, or goes."""
    place, size = rng.randrange(len(data)), rng.randrange(1, 40)
    times = rng.choice((0, 2)) if len(data) > size else 2
    return data[:place] + data[place : place + size] * times + data[place + size :]


def replace_digits(data: bytes, rng: random.Random) -> bytes:
    """Numbers of a JSON header."""
    places = [i for i, byte in enumerate(data[:2000]) if chr(byte).isdigit()]
    if not places:
        return data
    place = rng.choice(places)
    number = str(rng.choice((-1, 0, 7, 1 << 31, 1 << 62, 10**30, 1e300, 0.5))).encode()
    return data[:place] + number + data[place + 1 :]


def read_all(files: ModelFiles) -> None:
    """Everything that loading reads."""
    checkpoint = open_checkpoint(files)
    for name in sorted(checkpoint.names()):
        shape = checkpoint.shape(name)
        pieces = [torch.atleast_1d(piece) for piece in checkpoint.pieces(name)]
        assert sum(len(piece) for piece in pieces) == (shape[0] if shape else 1)
        assert checkpoint.tensor(name).shape == shape
        if (stored := checkpoint.packed(name)) is not None and shape:
            assert sum(len(rows) for rows in stored.pieces) == shape[0]
    if files.kind == "ggml":
        read_ggml_vocab(files.weights[0])


@contextmanager
def limits() -> Iterator[None]:
    """No more memory than MEMORY_BYTES from here on."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x)
    limit = int(line.split()[1]) * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    """Damage and read."""
    kind, name, write = FORMS[sys.argv[1]]
    path, count = Path(sys.argv[2]) / name, int(sys.argv[3])
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    write(path)
    torch.set_num_threads(1)
    files = ModelFiles(kind=kind, name="x", directory=path.parent, weights=(path,), gqa=GQA)
    read_all(files)
    whole, num_read = path.read_bytes(), 0
    with limits():
        for _ in range(count):
            path.write_bytes(data := damage(whole, rng))
            signal.alarm(SECONDS)
            try:
                read_all(files)
                num_read += 1
            except LoadError as error:
                if len(str(error)) > 1000:
                    raise RuntimeError("nobody can read such an error") from error
            except BaseException:
                sys.stdout.write(f"damaged file: {data!r}\n")
                raise
            signal.alarm(0)
    sys.stdout.write(f"{num_read} {count - num_read}\n")


if __name__ == "__main__":
    main()
