"""What must not be imported where: the API stays without torch, and `kernels` is our own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported_by(module: str) -> set[str]:
    """The modules in a fresh process after `import module`."""
    script = f"import {module}, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module", ["api.app", "api.server", "workers.__main__", "deploy.cli", "deploy.local"]
)
def test_processes_without_tensors_never_import_torch(module: str) -> None:
    assert not {"torch", "triton", "transformers", "kernels.ops"} & imported_by(module)


def test_the_api_imports_neither_engine_nor_worker() -> None:
    ours = {name.partition(".")[0] for name in imported_by("api.app")}
    assert not {"engine", "kernels", "deploy", "arq"} & ours


@pytest.mark.parametrize("module", ["api.app", "workers.__main__"])
def test_an_extra_is_imported_by_nobody_who_did_not_ask_for_it(module: str) -> None:
    assert not any(name.startswith("opentelemetry") for name in imported_by(module))


def test_kernels_is_our_own_package() -> None:
    import kernels

    assert kernels.__file__ == str(ROOT / "kernels" / "__init__.py")
