"""Our packages are found wherever a command runs, and a foreign one of the same name is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import cli, packages
from deploy.errors import StartError

ROOT = Path(__file__).parents[2]
PROCFILE = dict(re.findall(r"^(\w+): (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A directory with a package of each of our names that must never be imported."""
    for name in packages.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a decoy was imported')")
    return tmp_path


def test_our_own_packages_pass() -> None:
    for name in packages.PACKAGES:
        packages.check(name)


def test_a_foreign_package_is_refused_with_what_to_uninstall(decoys: Path) -> None:
    script = "from deploy import packages; packages.check('kernels', packages.ROOT)"
    setup = f"import sys, deploy; sys.path.insert(0, {str(decoys)!r}); "
    result = run(setup + script, cwd=ROOT)
    assert "StartError" in result.stderr
    assert f"finds {decoys}/kernels/__init__.py" in result.stderr
    assert "pip uninstall kernels" in result.stderr


def test_a_package_installed_over_ours_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    metadata = tmp_path / "kernels-0.17.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.17\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    with pytest.raises(StartError, match="installed over Tramontane's own"):
        packages.check("kernels", tmp_path)


@pytest.mark.parametrize(
    "module", ["kernels", "workers.__main__", "workers.engine_child", "api.server"]
)
def test_children_find_ours_from_a_directory_of_decoys(module: str, decoys: Path) -> None:
    environ = packages.child_environment({"PYTHONPATH": str(decoys)})
    result = run(f"import {module} as m; print(m.__file__)", cwd=decoys, environ=environ)
    assert result.stdout.startswith(str(ROOT)), result.stderr


def test_the_command_finds_ours_when_a_foreign_kernels_comes_first(decoys: Path) -> None:
    (decoys / "deploy" / "__init__.py").unlink()
    script = (
        f"import sys; sys.path[:0] = [{str(decoys)!r}]; sys.path.append({str(ROOT)!r}); "
        "from deploy import packages; packages.prefer_own(); "
        "import kernels; print(kernels.__file__)"
    )
    result = run(script, cwd=decoys)
    assert result.stdout.startswith(str(ROOT)), result.stderr


def run(
    script: str, cwd: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environ, capture_output=True, text=True
    )


class TestProcfile:
    def test_it_has_the_three_kinds_of_process(self) -> None:
        assert set(PROCFILE) == {"release", "web", "worker"}

    @pytest.mark.parametrize("line", PROCFILE.values(), ids=PROCFILE)
    def test_every_line_is_a_command_that_there_is(self, line: str) -> None:
        program, *arguments = line.split()
        assert program == "tramontane"
        cli.parse(arguments, {"PORT": "5000", "REDIS_URL": "redis://h"})

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("web", "--bind=0.0.0.0:5000"), ("worker", "workers")],
    )
    def test_roles_become_their_process(self, name, expected, monkeypatch) -> None:
        became: list[list[str]] = []
        monkeypatch.setattr("os.execve", lambda path, command, environ: became.append(command))
        call = cli.parse(PROCFILE[name].split()[1:], {"PORT": "5000"})
        call.command.main(call.values, call.environ)
        assert expected in became[0]
        assert became[0][0] == sys.executable
