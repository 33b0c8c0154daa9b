"""The supervisor: starts again what dies, gives up on a refusal, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import supervisor as module
from deploy.signals import Signals
from deploy.supervisor import Role, Supervisor

# A process with a child of its own. Writes both ids to argv[1]; argv[2] says how it takes SIGTERM.
TREE = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    print(os.getpid(), child.pid, file=file)
time.sleep(600)
"""

# A supervisor in a process of its own, as `serve` runs it.
PARENT = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup pass an ignored one on
from deploy.signals import Signals
from deploy.supervisor import Role, Supervisor
with Signals() as signals:
    supervisor = Supervisor(signals, None)
    command = [sys.executable, "-c", sys.argv[1], sys.argv[2], sys.argv[3]]
    role = Role("tree", command, signal.SIGKILL, 60.0, frozenset())
    supervisor.start([role], {})
    try:
        while not signals.num_stops:
            supervisor.tend()
            signals.wait(1)
    finally:
        supervisor.stop()
"""


def role(
    *command: str, refusals: frozenset[int] = frozenset(), stop_timeout_s: float = 5.0
) -> Role:
    return Role("test", command, signal.SIGKILL, stop_timeout_s, refusals)


def tree(path: Path, manner: str = "meek") -> list[str]:
    return [sys.executable, "-c", TREE, str(path), manner]


def lives(path: Path) -> list[list[int]]:
    """The process ids of every life so far."""
    if not path.exists():
        return []
    return [[int(pid) for pid in line.split()] for line in path.read_text().splitlines()]


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as signals:
        yield signals


@pytest.fixture
def supervisor(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(module, "_FIRST_DELAY_S", 0.02)
    supervisor = Supervisor(signals, None)
    yield supervisor
    supervisor.stop()


def test_stop_ends_a_process_and_what_it_started(
    supervisor: Supervisor, tmp_path: Path, is_gone, wait_until
) -> None:
    ids = tmp_path / "ids"
    supervisor.start([role(*tree(ids))], os.environ)
    wait_until(lambda: lives(ids))
    supervisor.stop()
    wait_until(lambda: all(is_gone(pid) for pid in lives(ids)[0]))


def test_a_process_that_ignores_sigterm_is_killed_after_its_time(
    supervisor: Supervisor, tmp_path: Path, is_gone, wait_until
) -> None:
    ids = tmp_path / "ids"
    supervisor.start([role(*tree(ids, "stubborn"), stop_timeout_s=0.2)], os.environ)
    wait_until(lambda: lives(ids))
    supervisor.stop()
    wait_until(lambda: all(is_gone(pid) for pid in lives(ids)[0]))


def test_a_killed_process_is_started_again_without_its_orphans(
    supervisor: Supervisor, tmp_path: Path, is_gone, wait_until
) -> None:
    ids = tmp_path / "ids"
    supervisor.start([role(*tree(ids))], os.environ)
    wait_until(lambda: lives(ids))
    os.kill(lives(ids)[0][0], signal.SIGKILL)
    wait_until(lambda: supervisor.tend() is None and len(lives(ids)) == 2)
    wait_until(lambda: all(is_gone(pid) for pid in lives(ids)[0]))
    assert not any(is_gone(pid) for pid in lives(ids)[1])


def test_the_delay_between_starts_grows(
    supervisor: Supervisor, tmp_path: Path, wait_until, capsys
) -> None:
    starts = tmp_path / "starts"
    script = (
        f"import time; print(time.time(), file=open({str(starts)!r}, 'a')); raise SystemExit(7)"
    )

    def times() -> list[float]:
        return [float(line) for line in starts.read_text().split()] if starts.exists() else []

    supervisor.start([role(sys.executable, "-S", "-c", script)], os.environ)
    wait_until(lambda: supervisor.tend() is None and len(times()) == 6)
    gaps = [after - before for before, after in zip(times(), times()[1:], strict=False)]
    assert gaps[4] > 0.3 > gaps[0]
    assert "ended with status 7; starting it again" in capsys.readouterr().err


def test_a_refusal_before_all_are_ready_is_final(supervisor: Supervisor, wait_until) -> None:
    refusal = role(sys.executable, "-S", "-c", "raise SystemExit(2)", refusals=frozenset({2}))
    supervisor.start([refusal], os.environ)
    wait_until(lambda: supervisor.tend() == 2)


def test_a_refusal_later_is_only_a_failure(supervisor: Supervisor, wait_until, capsys) -> None:
    refusal = role(sys.executable, "-S", "-c", "raise SystemExit(2)", refusals=frozenset({2}))
    supervisor.is_proven = True
    supervisor.start([refusal], os.environ)
    said: list[str] = []

    def is_restarted() -> bool:
        assert supervisor.tend() is None
        said.append(capsys.readouterr().err)
        return "starting it again" in "".join(said)

    wait_until(is_restarted)


def test_one_wish_delivered_twice_is_one_stop_and_a_later_one_another(signals: Signals) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    signals.wait(5)
    assert signals.num_stops == 1
    signals._last_stop_s -= 1  # a second passes
    os.kill(os.getpid(), signal.SIGINT)
    signals.wait(5)
    assert signals.num_stops == 2


def test_the_end_of_a_child_ends_a_wait(signals: Signals) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    signals.wait(30)
    child.wait(5)


@pytest.fixture
def parent(tmp_path: Path, wait_until, request) -> Iterator[subprocess.Popen[bytes]]:
    manner = getattr(request, "param", "meek")
    command = [sys.executable, "-c", PARENT, TREE, str(tmp_path / "ids"), manner]
    process = subprocess.Popen(command)
    wait_until(lambda: lives(tmp_path / "ids"))
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_everything_with_status_0(
    parent, number, tmp_path: Path, is_gone, wait_until
) -> None:
    parent.send_signal(number)
    assert parent.wait(10) == 0
    wait_until(lambda: all(is_gone(pid) for pid in lives(tmp_path / "ids")[0]))


@pytest.mark.parametrize("parent", ["stubborn"], indirect=True)
def test_a_second_ctrl_c_kills_at_once(parent, tmp_path: Path, is_gone, wait_until) -> None:
    parent.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(0.5)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(5) == 0
    wait_until(lambda: all(is_gone(pid) for pid in lives(tmp_path / "ids")[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_children_die_with_a_killed_supervisor(parent, tmp_path: Path, is_gone, wait_until) -> None:
    child, grandchild = lives(tmp_path / "ids")[0]
    parent.kill()
    wait_until(lambda: is_gone(child))
    psutil.Process(grandchild).kill()  # its own parent's affair, and that one was a simple script
