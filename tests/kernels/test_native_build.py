"""Building the C++ library: compiled once, and a reason given where that cannot be."""

import logging
import os
import stat
from pathlib import Path

import pytest
import torch

from kernels.cpu.native import bindings as door, build as builder, instructions
from kernels.cpu.native.build import BuildError, build
from kernels.cpu.native.instructions import AVX2


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Stands for g++: counts its calls, and writes the file that it is asked for."""
    script = tmp_path / "bin" / "g++"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\necho "$@" >> "$0.calls"\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


def calls(compiler):
    return compiler.with_suffix(".calls").read_text().splitlines()


def test_a_library_is_compiled_once(compiler, tmp_path):
    target = build(tmp_path / "cache")
    assert target.read_text() == "built\n"
    formats = builder._FORMAT.findall((builder.SOURCES / "blocks.h").read_text())
    assert sum("product.cpp" in call for call in calls(compiler)) == len(set(formats)) == 22
    before = len(calls(compiler))
    assert build(tmp_path / "cache") == target
    assert [*calls(compiler)[before:]] == ["--version"]
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, "lock"]


def test_a_build_may_have_some_formats_and_instructions_only(compiler, tmp_path):
    whole = build(tmp_path / "cache")
    before = len(calls(compiler))
    assert build(tmp_path / "cache", instructions=AVX2, formats=["Q4_0", "Q2_K"]) != whole
    built = [call for call in calls(compiler)[before:] if "product.cpp" in call]
    products = [call for call in built if "HQQ" not in call]  # which are always there
    assert len(products) == 2
    for call in products:
        assert "-march=x86-64-v3" in call
        assert "-DTR_FORMATS(DO)=DO(2, Q4_0) DO(10, Q2_K) " in call


def test_a_path_runs_where_the_processor_has_what_it_needs(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr(instructions, "features", lambda: AVX2.needs | {"avx_vnni"})
    names = [path.name for path in instructions.PATHS if path.can_run]
    assert names == ["AVX2 VNNI", "AVX2", "plain loops"]


def test_another_processor_or_compiler_needs_another_library(compiler, tmp_path, monkeypatch):
    first = build(tmp_path / "cache")
    monkeypatch.setattr(builder, "_cpu_features", lambda: "flags: fewer")
    second = build(tmp_path / "cache")
    compiler.write_text(compiler.read_text().replace("#!/bin/sh", "#!/bin/sh\necho version 13"))
    assert len({first, second, build(tmp_path / "cache")}) == 3


def test_a_failing_compiler_is_quoted_and_leaves_nothing(compiler, tmp_path):
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] || { echo "x.cpp: error: no" >&2; exit 1; }'
    )
    with pytest.raises(BuildError, match=r"g\+\+ failed: x.cpp: error: no"):
        build(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_no_compiler_is_said(tmp_path):
    with pytest.raises(BuildError, match="no C\\+\\+ compiler \\(no-such\\) on PATH"):
        build(tmp_path, ["no-such"])


def test_a_cache_that_cannot_be_written_is_said(compiler, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be written"):
        build(tmp_path / "file" / "cache")


def test_the_library_is_kept_where_it_is_said(monkeypatch, tmp_path):
    folders = []

    def note(folder):
        folders.append(folder)
        raise BuildError("enough")

    monkeypatch.setattr(door, "build", note)
    monkeypatch.setattr(door, "_folder", None)
    assert door.load_library.__wrapped__() is None
    door.keep_library_in(tmp_path)
    assert door.load_library.__wrapped__() is None
    assert folders == [Path.home() / ".cache" / "tramontane" / "kernels", tmp_path]


def test_without_a_library_there_is_one_warning(monkeypatch, caplog):
    def fail(_cache):
        raise BuildError("there is none")

    monkeypatch.setattr(door, "build", fail)
    fresh = door.load_library.__wrapped__
    with caplog.at_level(logging.WARNING):
        assert fresh() is None
    (record,) = caplog.records
    assert "there is none; install g++" in record.getMessage()


def test_one_pool_of_threads_serves_torch_and_the_library():
    if door.load_library() is None:
        pytest.skip("no compiler")
    torch.ones(8) @ torch.ones(8)
    path = Path("/proc/self/maps")
    maps = path.read_text() if path.exists() else ""
    pools = {line.split()[-1] for line in maps.splitlines() if "gomp" in line or "libomp" in line}
    assert len(pools) <= 1
