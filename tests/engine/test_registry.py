"""The registry and the model files against each other."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import LoadError
from engine.models import registry

FAMILY_FILES = {
    path.stem
    for path in Path(registry.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "registry")
}


def test_every_family_file_has_an_entry_and_every_entry_a_file():
    assert {module.rpartition(".")[2] for module in registry.MODELS.values()} == FAMILY_FILES


@pytest.mark.parametrize("architecture", list(registry.MODELS))
def test_an_entry_leads_to_the_class_of_its_name(architecture):
    assert registry.load_class(architecture).__name__ == architecture


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(LoadError, match=r"GPT2LMHeadModel is not supported.*LlamaForCausalLM, "):
        registry.check_architecture("GPT2LMHeadModel")


def test_no_family_imports_another():
    for module in registry.MODELS.values():
        source = Path(*module.split(".")).with_suffix(".py").read_text()
        assert "from engine.models" not in source


@pytest.mark.parametrize(
    "module",
    [
        "engine.models.registry",
        "engine.weights.files",
        "engine.weights.hub",
        "engine.weights.gguf_metadata",
        "engine.weights.model_config",
    ],
)
def test_what_the_command_line_needs_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
