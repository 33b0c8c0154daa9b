"""What the tests of processes share: is one gone, wait for a condition."""

import time
from collections.abc import Callable

import psutil
import pytest


def _is_gone(pid: int) -> bool:
    """A zombie counts: in a container nobody may be there to reap it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """True for a process that runs no more."""
    return _is_gone


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Waits for a condition to come true, and fails if it does not."""
    return _wait_until
