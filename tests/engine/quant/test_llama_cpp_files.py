"""Our quantisers and files beside llama.cpp's, where llama-cpp-python is installed."""

import ctypes

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type, GGUFReader
from gguf.quants import dequantize

from engine.models.registry import load_class
from engine.quant.registry import ROW_FORMATS
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_mixture import find_scheme
from engine.weights.gguf_writer import open_source, write_gguf
from tests.engine.llama_cpp_peer import library
from tests.engine.models import gguf_files, tiny
from tests.engine.models.paged import PagedModel
from tests.engine.weights.tiny_tokenizer import write_tokenizer

pytestmark = pytest.mark.nightly

FORMATS = {kind.name: kind for kind in ROW_FORMATS if kind.name not in ("Q8_1", "Q8_K")}
K_NAMES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
MIXTURES = [  # without Q2_K_S, which llama.cpp refuses without an imatrix
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "F16", "BF16", "F32"),
]
LARGE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
}
MAX_RATIO = 1.02


@pytest.fixture
def llama_cpp():
    return library()


def gaussian(rng, shape):
    return rng.standard_normal(shape)


def heavy_tailed(rng, shape):
    return rng.standard_t(4, shape)


def with_outliers(rng, shape):
    rows = rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.005, 20 * rows, rows)


def by_llama_cpp(llama_cpp, rows, kind, imatrix):
    """Rows [R, C] packed by ggml_quantize_chunk."""
    quantize = llama_cpp.llama_cpp._lib.ggml_quantize_chunk
    floats = ctypes.POINTER(ctypes.c_float)
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]
    block = FORMATS[kind.name]
    packed = np.zeros((len(rows), rows.shape[1] // block.num_weights * block.num_bytes), np.uint8)
    importance = None if imatrix is None else imatrix.ctypes.data_as(floats)
    size = quantize(
        int(kind), rows.ctypes.data_as(floats), packed.ctypes.data, 0, *rows.shape, importance
    )
    assert size == packed.nbytes
    return dequantize(packed, kind)


def rmse(weights, rows, imatrix):
    return np.sqrt(np.mean((weights - rows) ** 2 * (1 if imatrix is None else imatrix)))


@pytest.mark.parametrize("draw", [gaussian, heavy_tailed, with_outliers])
@pytest.mark.parametrize(
    ("name", "has_imatrix"), [*((n, False) for n in FORMATS), *((n, True) for n in K_NAMES)]
)
def test_the_error_is_within_two_percent_of_llama_cpps(llama_cpp, name, has_imatrix, draw):
    rng = np.random.default_rng(11)
    rows = (0.02 * draw(rng, (64, 2048))).astype(np.float32)
    imatrix = (rng.random(2048) ** 3 * 10 + 0.01).astype(np.float32) if has_imatrix else None
    block = FORMATS[name]
    importance = None if imatrix is None else torch.from_numpy(imatrix)
    ours = block.dequantize(block.quantize(torch.from_numpy(rows), importance)).numpy()
    theirs = by_llama_cpp(llama_cpp, rows, Type[block.name], imatrix)
    assert rmse(ours, rows, imatrix) <= MAX_RATIO * rmse(theirs, rows, imatrix)


def convert(path, name, out):
    write_gguf(open_source(resolve(ModelRef(model=str(path)))), find_scheme(name), out)
    return out


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("llama-cpp")


@pytest.fixture(scope="module", params=["llama", "llama-wide-groups", "qwen2", "odd", "mixtral"])
def float_file(request, directory):
    """Files that differ in what the mixtures look at: heads, ties, odd widths, experts."""
    changes = dict(LARGE)
    if request.param == "mixtral":
        eight = tiny.make_model("mixtral", **changes, num_local_experts=8)
        return gguf_files.write_gguf(eight, directory / "mixtral.gguf", Type.F32)
    if request.param == "llama-wide-groups":
        changes["num_key_value_heads"] = 1
    if request.param == "odd":
        changes |= {"hidden_size": 160, "intermediate_size": 288, "num_attention_heads": 5}
        changes["num_key_value_heads"] = 5
    name = "qwen2" if request.param == "qwen2" else "llama"
    model = tiny.make_model(name, **changes)
    path = directory / request.param
    model.save_pretrained(path)
    write_tokenizer(path)
    return convert(path, "F32", directory / f"{request.param}.gguf")


@pytest.mark.parametrize("name", MIXTURES)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(llama_cpp, name, float_file, directory):
    theirs, ours = directory / "theirs.gguf", directory / "ours.gguf"
    for path in (theirs, ours):
        path.unlink(missing_ok=True)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(find_scheme(name).file_type)
    params.nthread = 1
    result = llama_cpp.llama_model_quantize(
        str(float_file).encode(), str(theirs).encode(), ctypes.byref(params)
    )
    assert result == 0
    convert(float_file, name, ours)
    expected, found = GGUFReader(theirs), GGUFReader(ours)
    types = {t.name: t.tensor_type.name for t in expected.tensors}
    assert {t.name: t.tensor_type.name for t in found.tensors} == types
    assert found.fields["general.file_type"].contents() == int(params.ftype)


@pytest.mark.parametrize("name", ["llama", "llama3", "llama-bias", "qwen2", "qwen3"])
def test_llama_cpp_reads_our_file_and_goes_on_with_the_same_tokens(llama_cpp, name, tmp_path):
    model = tiny.make_model(name)
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    path = convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")
    prompt = tiny.prompts()[2]
    peer = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    tokens = peer.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
    theirs = [next(tokens) for _ in range(12)]
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    load_into = load_class(checkpoint.config.architecture)
    ours = load_into(checkpoint.config, torch.float32, torch.device("cpu"))
    ours.load(checkpoint, None)
    for token in theirs:
        logits = PagedModel(ours).prefill(prompt, chunk=16)[-1]
        # llama.cpp computes in float16: a token as likely as ours within that is as good.
        assert logits[token] > logits.max() - 0.01
        prompt = [*prompt, token]


def test_llama_cpp_cuts_text_as_we_do(llama_cpp, tmp_path):
    model = tiny.make_model("llama")
    model.save_pretrained(tmp_path / "hf")
    tokenizer = write_tokenizer(tmp_path / "hf")
    path = convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    text = "The hen's 12345 turns;\n\n then naïve 你好 </s>"
    theirs = peer.tokenize(text.encode(), add_bos=False, special=True)
    assert theirs == tokenizer.encode(text).ids
