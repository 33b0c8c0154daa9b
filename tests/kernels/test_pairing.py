"""A kernel has a twin: every launcher, CPU path and door has the reference's name and arguments."""

import importlib
import inspect
from pathlib import Path
from types import FunctionType

import pytest

from kernels import ops

ROOT = Path(ops.__file__).parent
INFRASTRUCTURE = {
    *(
        "architecture",
        "attention_parts",
        "attention_tiles",
        "check",
        "e4m3",
        "hqq_parts",
        "interpreter",
        "ops",
        "own_kinds",
        "packed",
        "packing",
        "recoding",
    ),
}
# No kernel for a GPU: `ops` composes them of others.
CPU_ONLY = {"cached_attention", "packed_attention", "packed_layers", "packed_mlp"}


def modules(folder):
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def functions(module):
    """The public functions that a module defines itself, by name."""
    found = vars(module).items()
    return {
        name: value
        for name, value in found
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and name[0] != "_"
    }


def test_every_kernel_file_has_a_reference_and_the_other_way_round():
    assert set(modules(ROOT)) - INFRASTRUCTURE == set(modules(ROOT / "reference")) - CPU_ONLY
    assert set(modules(ROOT / "cpu")) <= set(modules(ROOT / "reference"))


def operation(file):
    """The name of the op of a reference file: the one function of it that ops has too."""
    reference = functions(importlib.import_module(f"kernels.reference.{file}"))
    (name,) = reference.keys() & functions(ops).keys()
    return name, inspect.signature(reference[name])


@pytest.mark.parametrize("file", sorted(set(modules(ROOT / "reference")) - CPU_ONLY))
def test_launcher_has_the_references_signature_and_a_kernel_of_its_name(file, launcher):
    launcher(file, operation(file)[0])
    module = importlib.import_module(f"kernels.{file}")
    name, signature = operation(file)
    assert inspect.signature(getattr(module, name)) == signature
    assert hasattr(module, f"_{name}_kernel")


@pytest.mark.parametrize("file", modules(ROOT / "reference"))
def test_door_has_the_references_signature(file):
    name, signature = operation(file)
    assert inspect.signature(getattr(ops, name)) == signature


@pytest.mark.parametrize("cpu_file", modules(ROOT / "cpu"))
def test_cpu_path_has_the_references_signature(cpu_file):
    name, signature = operation(cpu_file)
    module = importlib.import_module(f"kernels.cpu.{cpu_file}")
    assert inspect.signature(getattr(module, name)) == signature


def test_ops_offers_nothing_without_a_reference():
    assert functions(ops).keys() == {operation(file)[0] for file in modules(ROOT / "reference")}
