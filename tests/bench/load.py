"""What it takes to load a model of 1 GB from the page cache: memory at its peak, and seconds.

    python tests/bench/load.py [--layers 9] [--cases safetensors-bf16,gguf-f16,…] [--out FILE]

Writes Llama-shaped files of random weights to a temporary directory, reads each once so that the
kernel has it, and loads it by `load_generator`, with a small KV cache, in a process of its own.
`peak` is the most memory that process ever had (VmHWM, mapped pages of files too) beyond what it
had after its imports, over the bytes of the model's weights in the form they are kept in; `after`
the same at the end. `start_s` counts from the call of `load_generator` to its return, `cpu_s` what
all threads worked in it: on a machine that is busy with other things, the figure to compare.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from engine.config import EngineConfig  # noqa: E402
from engine.engine import load_generator  # noqa: E402
from engine.weights.files import ModelRef, resolve  # noqa: E402
from kernels.packed import PackedMatrix  # noqa: E402
from tests.bench.report import report  # noqa: E402

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 32000
HEAD_DIM = HIDDEN // HEADS
# File, the dtype to load it to, and the type to quantise it to on the way. `auto` is float32 on a
# CPU: twice the file.
CASES = {
    "safetensors-bf16": ("bf16", "bfloat16", ""),
    "safetensors-f16": ("f16", "float16", ""),
    "safetensors-shards-bf16": ("bf16-shards", "bfloat16", ""),
    "safetensors-bf16-auto": ("bf16", "auto", ""),
    "gguf-f16": ("f16.gguf", "float16", ""),
    "gguf-bf16": ("bf16.gguf", "bfloat16", ""),
    "gguf-f16-auto": ("f16.gguf", "auto", ""),
    "gguf-q8_0": ("q8_0.gguf", "bfloat16", ""),
    "gguf-q4_0": ("q4_0.gguf", "bfloat16", ""),
    "isq-q8_0-of-bf16": ("bf16", "auto", "Q8_0"),
    "isq-q4k-of-bf16": ("bf16", "auto", "Q4K"),
}
TARGETS = {"peak": "<= 1.15", "start_s": "< 3"}


def shapes(num_layers: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Hugging Face name, GGUF name and shape of each tensor."""
    kv = KV_HEADS * HEAD_DIM
    yield "model.embed_tokens", "token_embd", (VOCAB, HIDDEN)
    for i in range(num_layers):
        hf, gguf = f"model.layers.{i}", f"blk.{i}"
        yield f"{hf}.input_layernorm", f"{gguf}.attn_norm", (HIDDEN,)
        yield f"{hf}.self_attn.q_proj", f"{gguf}.attn_q", (HIDDEN, HIDDEN)
        yield f"{hf}.self_attn.k_proj", f"{gguf}.attn_k", (kv, HIDDEN)
        yield f"{hf}.self_attn.v_proj", f"{gguf}.attn_v", (kv, HIDDEN)
        yield f"{hf}.self_attn.o_proj", f"{gguf}.attn_output", (HIDDEN, HIDDEN)
        yield f"{hf}.post_attention_layernorm", f"{gguf}.ffn_norm", (HIDDEN,)
        yield f"{hf}.mlp.gate_proj", f"{gguf}.ffn_gate", (INTERMEDIATE, HIDDEN)
        yield f"{hf}.mlp.up_proj", f"{gguf}.ffn_up", (INTERMEDIATE, HIDDEN)
        yield f"{hf}.mlp.down_proj", f"{gguf}.ffn_down", (HIDDEN, INTERMEDIATE)
    yield "model.norm", "output_norm", (HIDDEN,)
    yield "lm_head", "output", (VOCAB, HIDDEN)


def random_weights(shape: tuple[int, ...], seed: int) -> Tensor:
    """Small normal numbers, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def write_safetensors(directory: Path, num_layers: int, dtype: torch.dtype, shards: int) -> Path:
    """A directory as transformers would write it, in `shards` files."""
    directory.mkdir()
    names = [(f"{hf}.weight", shape) for hf, _, shape in shapes(num_layers)]
    files = ["model.safetensors"]
    if shards > 1:
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: files[i * shards // len(names)] for i, (name, _) in enumerate(names)}
    for file in files:
        tensors = {
            name: random_weights(shape, seed).to(dtype)
            for seed, (name, shape) in enumerate(names)
            if weight_map[name] == file
        }
        save_file(tensors, directory / file, metadata={"format": "pt"})
    if shards > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (directory / "model.safetensors.index.json").write_text(index)
    (directory / "config.json").write_text(json.dumps(hf_config(num_layers)))
    return directory


def hf_config(num_layers: int) -> dict[str, Any]:
    """config.json of a Llama of this size."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    }


def write_gguf(path: Path, num_layers: int, kind: Type) -> Path:
    """A file as llama.cpp's converter would write it; norms are float32."""
    writer = GGUFWriter(path, "llama", use_temp_file=True)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token{i}" for i in range(VOCAB)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for seed, (_, name, shape) in enumerate(shapes(num_layers)):
        stored = kind if len(shape) > 1 else Type.F32
        packed = quantize(np.ascontiguousarray(random_weights(shape, seed).numpy()), stored)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write(name: str, directory: Path, num_layers: int) -> Path:
    """The file or directory called `name` in a case."""
    path = directory / name
    if name.endswith(".gguf"):
        return write_gguf(path, num_layers, Type[name.removesuffix(".gguf").upper()])
    dtype = torch.bfloat16 if name.startswith("bf16") else torch.float16
    return write_safetensors(path, num_layers, dtype, 3 if name.endswith("shards") else 1)


def status_bytes(key: str) -> int:
    """A line of /proc/self/status, such as VmHWM."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if key in line)
    return int(line.split()[1]) * 1024


def weight_bytes(model: Any) -> dict[int, int]:
    """Bytes of each weight by its address, those that stay packed included."""
    tensors = list(model.parameters())
    for module in model.modules():
        packed = getattr(module, "packed", None) or ()
        matrices = [packed] if isinstance(packed, PackedMatrix) else packed
        tensors += [matrix.data for matrix in matrices]
    return {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.numel()}


def load(path: str, dtype: str, isq: str) -> None:
    """Load in this process and print what it took."""
    torch.zeros(1) @ torch.zeros(1)  # what torch needs for its first product is no model's
    before = status_bytes("VmRSS")
    config = EngineConfig(
        device="cpu",
        dtype=dtype,
        isq=isq,
        max_seqs=2,
        max_model_len=256,
        kv_cache_bytes=1 << 20,
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    engine = load_generator(resolve(ModelRef(model=path)), config)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    model = engine._runner.model
    size = sum(weight_bytes(model).values())
    peak = status_bytes("VmHWM") - before
    after = status_bytes("VmRSS") - before
    figures = {"peak": peak / size, "after": after / size, "start_s": seconds, "cpu_s": cpu}
    print(json.dumps({**figures, "size": size}))


def read_once(path: Path) -> None:
    """Have the kernel cache the files, and be through with writing them."""
    os.sync()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass


def measure(path: Path, dtype: str, isq: str, repeats: int) -> dict[str, float]:
    """The worst peak and the median of the seconds over fresh processes."""
    read_once(path)
    command = [sys.executable, __file__, "--load", str(path), "--dtype", dtype, "--isq", isq]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        for _ in range(repeats)
    ]
    worst = {key: max(run[key] for run in runs) for key in ("peak", "after")}
    return worst | {
        key: statistics.median(run[key] for run in runs) for key in ("start_s", "cpu_s")
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=9, help="9 make 1 GB in 16 bits")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="", help="adds the results to this file")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--isq", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load, args.dtype, args.isq)
        return
    del args.load, args.dtype, args.isq
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        for case in args.cases.split(","):
            name, dtype, isq = CASES[case]
            path = Path(directory) / name
            if not path.exists():
                write(name, Path(directory), args.layers)
            figures = measure(path, dtype, isq, args.repeats)
            result |= {f"{case} {figure}": value for figure, value in figures.items()}
    # Unpacking takes its time; the promise is for files of 16-bit numbers.
    targets = {name: TARGETS.get(name.split()[1], "") for name in result if "q" not in name}
    report("load", result, targets, args)


if __name__ == "__main__":
    main()
