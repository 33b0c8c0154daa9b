"""Topology files: what an entry means, and those that make no sense."""

import pytest

from engine.errors import LoadError
from engine.weights.topology import read_topology

GUIDE = r"""
0-8:
  isq: Q3K
  device: cuda[0]
12: {isq: q8_0}
'/model\.layers\.\d+\.self_attn\..*/': {isq: 6}
'/layers\.3\..*q_proj/':
  isq: HQQ4
"""


def write(directory, text):
    path = directory / "topology.yml"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "isq"),
    [
        ("model.layers.0.mlp.up_proj.weight", "Q3K"),
        ("model.layers.7.mlp.up_proj.weight", "Q3K"),
        ("model.layers.8.mlp.up_proj.weight", None),
        ("model.layers.12.mlp.up_proj.weight", "Q8_0"),
        ("model.layers.1.mlp.up_proj.weight", "Q3K"),
        ("model.layers.11.mlp.up_proj.weight", None),
        ("model.layers.8.self_attn.k_proj.weight", "6"),
        ("model.layers.0.self_attn.k_proj.weight", "6"),
        ("model.layers.3.self_attn.q_proj.weight", "HQQ4"),
        ("lm_head.weight", None),
    ],
)
def test_a_weight_has_the_type_of_its_last_regex_or_else_of_its_layer(name, isq, tmp_path):
    topology = read_topology(write(tmp_path, GUIDE))
    assert topology.isq(name) == isq
    assert topology.types() == {"Q3K", "Q8_0", "6", "HQQ4"}


def test_an_entry_may_have_a_device_alone(tmp_path):
    topology = read_topology(write(tmp_path, "0-2: {device: cpu}\n2-4: {device: cpu, isq: 4}"))
    assert topology.isq("model.layers.1.mlp.up_proj.weight") is None
    topology.check_device("cpu")
    with pytest.raises(LoadError, match=r"puts layers on cpu, but a model is on one device here"):
        topology.check_device("cuda")


@pytest.mark.parametrize(("written", "device"), [("cuda", "cuda:0"), ("cuda[0]", "cuda")])
def test_the_first_of_a_kind_needs_no_number(written, device, tmp_path):
    read_topology(write(tmp_path, f"0: {{device: '{written}'}}")).check_device(device)


REFUSALS = {
    "nothing": ("", "is no topology: it must be a mapping"),
    "a list": ("- 0-8", "is no topology: it must be a mapping"),
    "no YAML": ("0-8: {isq: Q3K", "is no YAML: .*line 1"),
    "a tag": ("!!python/object:os.system {}", "must be a mapping"),
    "a word as value": ("0-8: Q3K", "the entry 0-8 must be a mapping with `isq`, `device` or both"),
    "nothing as value": ("0-8:", "the entry 0-8 must be a mapping"),
    "an empty value": ("0-8: {}", "the entry 0-8 must be a mapping"),
    "an unknown key": ("0-8: {isp: Q3K}", "the entry 0-8 has 'isp', which is neither `isq` nor"),
    "an unknown type": ("0-8: {isq: Q7}", "the entry 0-8: ISQ type Q7 unknown, choose one of `2`"),
    "no type": ("0-8: {isq: }", "ISQ type  unknown"),
    "types": ("0-8: {isq: [Q3K]}", "has a isq that is no single word"),
    "an unknown device": ("0: {device: 'metal[0]'}", r"names the device 'metal\[0\]'; it must be"),
    "no layers": ("8-8: {isq: 4}", "the entry 8-8 has no layers: its end must be above its start"),
    "layers backwards": ("8-2: {isq: 4}", "the entry 8-2 has no layers"),
    "a negative layer": ("-1: {isq: 4}", "the entry -1 is neither a layer"),
    "a word as layer": ("first: {isq: 4}", "the entry first is neither a layer"),
    "a bad regex": ("'/(/': {isq: 4}", r"/\(/ is no regular expression: missing \)"),
    "layers twice": ("0-8: {isq: 4}\n7-9: {isq: 5}", "has layer 7 in two entries; give it one"),
    "a layer twice": ("0-8: {isq: 4}\n3: {isq: 5}", "has layer 3 in two entries"),
    "a key twice": ("0-8: {isq: 4}\n0-8: {isq: 5}", "has 0-8 twice"),
    "a type twice": ("0-8: {isq: 4, isq: 5}", "the entry 0-8 has isq twice"),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_file_that_makes_no_sense_is_one_sentence(text, sentence, tmp_path):
    with pytest.raises(LoadError, match=sentence) as caught:
        read_topology(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LoadError, match=r"none.yml cannot be read: No such file"):
        read_topology(str(tmp_path / "none.yml"))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "topology.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="is no YAML"):
        read_topology(str(tmp_path / "topology.yml"))
