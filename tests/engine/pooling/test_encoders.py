"""Every family of encoders against transformers: states, limits, checkpoints in older forms."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import InvalidInput, LoadError, PromptTooLong
from tests.engine.pooling import tiny_encoders as tiny

TOLERANCE = 1e-5  # of vectors of length one


def expected(model, text, **inputs):
    """The first token's state, as vLLM takes it where no file says otherwise."""
    state = tiny.states(model, text, **inputs)[0].double()
    return state / state.norm()


@pytest.mark.parametrize("name", tiny.EMBEDDERS)
def test_texts_packed_in_one_step_have_transformers_states(name, load, vectors, tmp_path):
    model = tiny.make(tiny.EMBEDDERS[name])
    engine = load(tiny.save(model, tmp_path))
    assert (engine.info.task, engine.info.vector_size) == ("embed", 64)
    for text, vector in zip(tiny.texts(), vectors(engine, tiny.texts()), strict=True):
        assert (vector - expected(model, text)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_text_alone_has_the_vector_that_it_has_among_others(name, load, vectors, tmp_path):
    engine = load(tiny.save(tiny.make(tiny.EMBEDDERS[name]), tmp_path))
    together = vectors(engine, tiny.texts())
    for text, vector in zip(tiny.texts(), together, strict=True):
        (alone,) = vectors(engine, [text])
        assert (alone - vector).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet"])
def test_half_precision_moves_vectors_little(name, load, vectors, tmp_path):
    directory = tiny.save(tiny.make(tiny.EMBEDDERS[name]), tmp_path)
    exact = vectors(load(directory), tiny.texts())
    rounded = vectors(load(directory, dtype="bfloat16"), tiny.texts())
    for one, other in zip(exact, rounded, strict=True):
        assert 0 < (one - other).abs().max() < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize("name", tiny.EMBEDDERS)
def test_a_gpu_gives_the_vectors_that_a_cpu_gives(name, load, vectors, tmp_path):
    directory = tiny.save(tiny.make(tiny.EMBEDDERS[name]), tmp_path)
    on_cpu = vectors(load(directory), tiny.texts())
    on_gpu = vectors(load(directory, device="cuda"), tiny.texts())
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert (one - other).abs().max() <= TOLERANCE


def test_token_types_tell_the_texts_of_a_pair_apart(load, vectors, tmp_path):
    model = tiny.make(tiny.EMBEDDERS["bert"])
    engine = load(tiny.save(model, tmp_path))
    text = tiny.texts()[2]
    types = [0] * 20 + [1] * 13
    typed, untyped = vectors(engine, [text, text], [types, []])
    assert (typed - expected(model, text, token_type_ids=torch.tensor([types]))).abs().max() < 1e-5
    assert (typed - untyped).abs().max() > 1e-3


def test_types_are_nothing_to_a_model_without_them(load, vectors, tmp_path):
    engine = load(tiny.save(tiny.make(tiny.EMBEDDERS["roberta"]), tmp_path))
    text = tiny.texts()[1]
    typed, untyped = vectors(engine, [text, text], [[1] * 9, []])
    assert torch.equal(typed, untyped)


@pytest.mark.parametrize(
    ("name", "length"), [("bert", 80), ("roberta", 78), ("modernbert", 80), ("mpnet", 78)]
)
def test_the_longest_text_has_all_positions_and_one_more_token_is_refused(
    name, length, load, vectors, tmp_path
):
    model = tiny.make(tiny.EMBEDDERS[name])
    engine = load(tiny.save(model, tmp_path))
    assert engine.info.context_length == length
    text = [5 + number % 90 for number in range(length)]
    (vector,) = vectors(engine, [text])
    assert (vector - expected(model, text)).abs().max() <= TOLERANCE
    with pytest.raises(PromptTooLong):
        vectors(engine, [[*text, 5]])


def test_distances_past_the_last_bucket_have_its_bias(load, vectors, tmp_path):
    model = tiny.make(tiny.EMBEDDERS["mpnet"], max_position_embeddings=400)
    text = [5 + number * 7 % 90 for number in range(390)]
    (vector,) = vectors(load(tiny.save(model, tmp_path)), [text])
    assert (vector - expected(model, text)).abs().max() <= TOLERANCE


def test_norms_may_have_their_old_names(load, vectors, tmp_path):
    model = tiny.make(tiny.EMBEDDERS["bert-masked-lm"])
    path = tiny.save(model, tmp_path) / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in old
    save_file(old, path)
    (vector,) = vectors(load(tmp_path), [tiny.texts()[2]])
    assert (vector - expected(model, tiny.texts()[2])).abs().max() <= TOLERANCE


def test_nomics_published_keys_are_those_of_transformers(load, vectors, tmp_path):
    model = tiny.make(tiny.EMBEDDERS["nomic"])
    path = tiny.save(model, tmp_path) / "config.json"
    published = {
        **{"n_embd": 64, "n_inner": 96, "n_layer": 3, "n_head": 4, "n_positions": 80},
        **{"vocab_size": 120, "type_vocab_size": 2, "layer_norm_epsilon": 1e-12},
        **{"activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0},
        "architectures": ["NomicBertModel"],
    }
    path.write_text(json.dumps(published))
    (vector,) = vectors(load(tmp_path), [tiny.texts()[3]])
    assert (vector - expected(model, tiny.texts()[3])).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"rotary_emb_fraction": 0.5},
        {"rotary_emb_interleaved": True},
        {"prenorm": True},
        {"use_rms_norm": True},
        {"qkv_proj_bias": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_variant_of_nomic_that_is_not_supported_is_refused(change, load, tmp_path):
    path = tiny.save(tiny.make(tiny.EMBEDDERS["nomic"]), tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LoadError, match="not supported"):
        load(tmp_path)


def test_gtes_published_files_have_another_name_and_stretched_positions(load, vectors, tmp_path):
    """NTK's fixed scaling (kexue.fm/archives/9706), as frequencies that transformers is given."""
    theta, factor, half = 20_000.0, 8.0, 8
    model = tiny.make(tiny.SCORERS["gte"])
    steps = torch.arange(half).double() / half
    exact = (theta * factor) ** -steps / factor ** (1 / half)
    model.base_model.rotary_emb.inv_freq.copy_(exact.float())
    path = tiny.save(model, tmp_path) / "model.safetensors"
    published = {n.replace("gte.", "new.", 1): tensor for n, tensor in load_file(path).items()}
    assert "new.pooler.dense.weight" in published
    save_file(published, path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"architectures": ["NewForSequenceClassification"], "model_type": "new"}
    config |= {"rope_theta": theta, "rope_scaling": {"type": "ntk", "factor": factor}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"position_embedding_type": "rope"}))
    (vector,) = vectors(load(tmp_path, task="embed"), [tiny.texts()[3]])
    assert (vector - expected(model, tiny.texts()[3])).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 8.0}}, "must be of type ntk"),
        ({"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}}, "mixed_b"),
        ({"logn_attention_scale": True}, "logn_attention_scale"),
        ({"pack_qkv": False}, "pack_qkv"),
    ],
    ids=["yarn", "mixed", "logn", "unpacked"],
)
def test_a_variant_of_gte_that_is_not_supported_is_refused(change, reason, load, tmp_path):
    path = tiny.save(tiny.make(tiny.EMBEDDERS["gte"]), tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LoadError, match=reason):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "relu6"}, "activation 'relu6'"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 7}, "no even multiple"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 4000}, "do not belong together"),
        ({"intermediate_size": 95}, "shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_shape_that_is_not_supported_or_not_the_weights_is_refused(
    change, reason, load, tmp_path
):
    path = tiny.save(tiny.make(tiny.EMBEDDERS["bert"]), tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LoadError, match=reason):
        load(tmp_path)


def test_a_tensor_that_the_family_does_not_know_is_refused(load, tmp_path):
    path = tiny.save(tiny.make(tiny.EMBEDDERS["bert"]), tmp_path) / "model.safetensors"
    save_file({**load_file(path), "encoder.adapter.weight": torch.ones(2, 2)}, path)
    with pytest.raises(LoadError, match=r"encoder\.adapter\.weight"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"isq": "Q4K"}, "is an encoder"), ({"max_model_len": 81}, "model's own is 80")],
    ids=["isq", "length"],
)
def test_settings_that_an_encoder_cannot_meet_are_refused(settings, reason, load, tmp_path):
    with pytest.raises(LoadError, match=reason):
        load(tiny.save(tiny.make(tiny.EMBEDDERS["bert"]), tmp_path), **settings)


def test_ids_and_types_that_the_model_has_not_are_refused(load, vectors, tmp_path):
    engine = load(tiny.save(tiny.make(tiny.EMBEDDERS["bert"]), tmp_path))
    with pytest.raises(InvalidInput, match="120 is no token id"):
        vectors(engine, [[5, 120]])
    with pytest.raises(InvalidInput, match="2 is no token type"):
        vectors(engine, [[5, 6]], [[0, 2]])
    with pytest.raises(InvalidInput, match="3 token types are given for 2 tokens"):
        vectors(engine, [[5, 6]], [[0, 0, 0]])
    with pytest.raises(InvalidInput, match="no tokens"):
        vectors(engine, [[]])
    assert not engine.has_work()
