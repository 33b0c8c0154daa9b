"""Devices and number formats."""

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.device import choose_device, choose_dtype, prepare_kernels
from engine.errors import LoadError
from tests.engine.hash_model import model_config

MODEL = model_config(dtype="bfloat16")


def test_auto_is_a_device_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:77", "nonsense", "meta", "cpu:x"])
def test_a_device_that_is_not_there_stops_the_start(name):
    with pytest.raises(LoadError, match=name):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_what_suits_the_device(name, device, dtype):
    assert choose_dtype(EngineConfig(dtype=name), MODEL, torch.device(device)) == dtype


def test_an_unknown_dtype_stops_the_start():
    with pytest.raises(LoadError, match="int7"):
        choose_dtype(EngineConfig(dtype="int7"), MODEL, torch.device("cpu"))


def test_8_bit_inputs_on_a_cpu_need_its_kernels(monkeypatch):
    cpu, config = torch.device("cpu"), EngineConfig(cpu_activations="int8")
    monkeypatch.setattr("engine.device.has_kernels", lambda: True)
    prepare_kernels(config, cpu)
    monkeypatch.setattr("engine.device.has_kernels", lambda: False)
    prepare_kernels(EngineConfig(), cpu)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    prepare_kernels(config, torch.device("cuda:0"))
    with pytest.raises(LoadError, match=r"install g\+\+, or ask for auto"):
        prepare_kernels(config, cpu)


def test_kernels_are_kept_where_the_configuration_says(monkeypatch):
    folders: list[Path] = []
    monkeypatch.setattr("engine.device.keep_kernels_in", folders.append)
    prepare_kernels(EngineConfig(), torch.device("cpu"))
    prepare_kernels(EngineConfig(kernel_cache="/fast"), torch.device("cpu"))
    assert folders == [Path("/fast")]
