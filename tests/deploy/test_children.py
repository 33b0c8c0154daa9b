"""Child processes and the signals that come while they are made."""

import signal
import subprocess
import sys
from pathlib import Path

from deploy import children

ROOT = Path(__file__).parents[2]
# Python calls what is registered when it has forked, and drops what is raised in it. In a process
# of its own: a signal to a process goes to any of its threads, and only one of them may fork.
SPAWNING = """
import os, signal, psutil
from deploy import children

class Stop(Exception): pass
def stop(number, frame): raise Stop
def stop_us(): os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, stop)
os.register_at_fork(after_in_parent=stop_us)
try:
    children.spawn(["sleep", "60"], death_signal=signal.SIGKILL)
except Stop:
    print("stopped", len(psutil.Process().children()))
"""


def test_a_signal_that_comes_while_python_forks_is_not_lost():
    done = subprocess.run(
        [sys.executable, "-c", SPAWNING], capture_output=True, text=True, timeout=30, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("stopped 0\n", "")


def test_a_child_hears_its_signals():
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    command = [sys.executable, "-c", code]
    death = signal.SIGKILL
    process = children.spawn(command, death_signal=death, stdout=subprocess.PIPE)
    assert process.communicate(timeout=20)[0] == b"set()\n"
