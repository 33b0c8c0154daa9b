"""The house rules that no linter knows: file sizes, module docstrings, no packages under tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "workers", "engine", "kernels", "deploy")
FILES = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]
MAX_LINES = 400
# Training text for the built-in model is data, whatever its length.
SEEN_BY_THE_API = (
    *("contract", "counts", "keys", "metric_families", "questions"),
    *("environment", "redis_policy", "tracing", "collector"),
)
DATA = ROOT / "engine" / "builtin" / "corpus"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea(path):
    if DATA not in path.parents:
        assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def imported_by(path):
    """The modules that a file imports, dotted; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_api_sees_of_the_workers_only_the_wire_and_the_settings_reader():
    modules = {p.stem for p in (ROOT / "workers").glob("*.py")} - set(SEEN_BY_THE_API)
    hidden = {f"workers.{name}" for name in modules}
    seen = {name for p in (ROOT / "api").rglob("*.py") for name in imported_by(p)}
    assert "workers.contract" in seen
    assert not seen & hidden
