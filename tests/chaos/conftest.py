"""Fixtures: a fleet that is healed before each test, fleets with settings of their own, oracle."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from tests.chaos.fleet import Fleet, fleet_of
from tests.chaos.proxies import Proxies
from tests.chaos.verdict import Oracle
from tests.scripted_engine import plain_ids


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    files = resolve(ModelRef(model="builtin"))
    return Oracle(load_text_model(files), plain_ids(files.directory))


@pytest.fixture(scope="session")
def proxies() -> Iterator[Proxies]:
    process = Proxies()
    yield process
    process.close()


@pytest.fixture(scope="session")
def _shared_fleet(proxies: Proxies) -> Iterator[Fleet]:
    with fleet_of(proxies, apis=2, workers=2) as fleet:
        yield fleet


@pytest.fixture
def fleet(_shared_fleet: Fleet) -> Fleet:
    """Two API processes and two workers, all well and idle."""
    _shared_fleet.heal()
    return _shared_fleet


@pytest.fixture
def start_fleet(proxies: Proxies) -> Iterator[Callable[..., Fleet]]:
    """Starts a fleet of the test's own: `apis`, `workers`, and settings by their variables."""
    with contextlib.ExitStack() as stack:

        def start(*, apis: int = 1, workers: int = 1, **environ: str) -> Fleet:
            return stack.enter_context(fleet_of(proxies, apis=apis, workers=workers, **environ))

        yield start
