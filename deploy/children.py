"""Child processes that cannot outlive us: a session of their own, a signal when the parent dies.

Knows how to start and end a process, not what it runs.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM)


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals,
    environ: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that Ctrl-C in the terminal reaches us first.

    On Linux the kernel sends it `death_signal` when we die, however we die. That bond is with the
    thread that forks, so only the main thread may call this. A stop signal waits until the fork is
    over: Python runs callbacks when it has forked, and drops what is raised in them.
    """
    assert threading.current_thread() is threading.main_thread()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    bind = _bind_to_parent(death_signal)

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        bind()

    with contextlib.ExitStack() as exits:
        exits.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=in_child,
        )
        exits.pop_all()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:  # the stop that waited: nobody else knows of the child
        kill_group(process)
        raise
    return process


def _bind_to_parent(death_signal: signal.Signals) -> Callable[[], None]:
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(
        None
    ).prctl  # looked up before the fork: the child must not take the loader's lock
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # it died before the bond was made
            os._exit(1)

    return bind


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the child and whatever it started that is still in its session's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, then after `timeout_s` SIGKILL; what the child left behind is killed as well."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    kill_group(process)
