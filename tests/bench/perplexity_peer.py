"""llama.cpp's quantiser and its perplexity. Runs in an environment of its own.

    python tests/bench/perplexity_peer.py quantize FROM.gguf TO.gguf FILE_TYPE
    python tests/bench/perplexity_peer.py measure FILE.gguf TEXTS.json

(with llama-cpp-python and numpy alone.) `quantize` gives every matrix one type. TEXTS.json has
[token ids, which of them count] of each text; the answer is a line with the perplexity.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np

CONTEXT = 1024


def quantize(source: str, target: str, file_type: str) -> None:
    """As `llama-quantize --pure` does."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(file_type)
    params.pure = True
    params.nthread = 1
    result = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    assert result == 0, f"llama.cpp cannot write {target}"


def measure(path: str, texts: str) -> None:
    """Float32 keys and values, no flash attention; products as llama.cpp makes them."""
    model = llama_cpp.Llama(
        path,
        n_ctx=CONTEXT,
        n_batch=CONTEXT,
        n_ubatch=CONTEXT,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )
    loss, number = 0.0, 0
    with open(texts) as file:
        pairs = json.load(file)
    for ids, counts in pairs:
        model.reset()
        model.eval(ids)
        logits = model.scores[: len(ids) - 1].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), ids[1:]]
        loss += losses[np.array(counts[1:])].sum()
        number += sum(counts[1:])
    print(json.dumps(float(np.exp(loss / number))))


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        quantize(*sys.argv[2:])
    else:
        measure(*sys.argv[2:])
