"""Child processes and the signals that come while they are made."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from deploy import children

DEATH = signal.SIGKILL


class _ForkedError(Exception):
    """What a handler raises."""


@pytest.fixture
def raising():
    def handler(number, frame):
        raise _ForkedError

    old = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, old)


def test_a_signal_that_comes_while_python_forks_is_not_lost(raising):
    # Python calls this when it has forked, and drops what is raised in it.
    is_armed = [True]

    def after_fork():
        if is_armed:
            os.kill(os.getpid(), signal.SIGTERM)

    os.register_at_fork(after_in_parent=after_fork)
    try:
        with pytest.raises(_ForkedError):
            children.spawn(["sleep", "60"], death_signal=DEATH)
    finally:
        is_armed.clear()
    assert not [child for child in psutil.Process().children() if child.name() == "sleep"]


def test_a_child_hears_its_signals():
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    command = [sys.executable, "-c", code]
    process = children.spawn(command, death_signal=DEATH, stdout=subprocess.PIPE)
    assert process.communicate(timeout=20)[0] == b"set()\n"
