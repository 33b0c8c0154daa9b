"""Fixtures: a fleet that is healed before each test, fleets with settings of their own, oracle."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from tests.chaos.fleet import Fleet, fleet_of
from tests.chaos.proxy import Thread
from tests.chaos.verdict import Oracle
from tests.scripted_engine import plain_ids


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    files = resolve(ModelRef(model="builtin"))
    return Oracle(load_text_model(files), plain_ids(files.directory))


@pytest.fixture(scope="session")
def proxy_thread() -> Iterator[Thread]:
    thread = Thread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def _shared_fleet(proxy_thread: Thread) -> Iterator[Fleet]:
    with fleet_of(proxy_thread, apis=2, workers=2) as fleet:
        yield fleet


@pytest.fixture
def fleet(_shared_fleet: Fleet) -> Fleet:
    """Two API processes and two workers, all well and idle."""
    _shared_fleet.heal()
    return _shared_fleet


@pytest.fixture
def start_fleet(proxy_thread: Thread) -> Iterator[Callable[..., Fleet]]:
    """Starts a fleet of the test's own: `apis`, `workers`, and settings by their variables."""
    with contextlib.ExitStack() as stack:

        def start(*, apis: int = 1, workers: int = 1, **environ: str) -> Fleet:
            return stack.enter_context(
                fleet_of(proxy_thread, apis=apis, workers=workers, **environ)
            )

        yield start
