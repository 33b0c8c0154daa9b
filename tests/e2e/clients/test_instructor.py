"""instructor, unchanged, against the running server. `make nightly-clients` installs it apart."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("INSTRUCTOR_PYTHON", "")
PROGRAM = Path(__file__).with_name("instructor_client.py")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not PYTHON, reason="make nightly-clients"),
]


@pytest.fixture(scope="module")
def scenarios(api_url):
    result = subprocess.run(
        [PYTHON, str(PROGRAM), api_url], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def said(scenarios, request):
    """What the scenario saw."""
    seen = scenarios[request.param]
    assert not (isinstance(seen, dict) and "failed" in seen), seen["failed"]
    return seen


def check(wind):
    assert wind["name"] in ("tramontane", "mistral", "bora")
    assert 0 <= wind["speed"] <= 99
    assert isinstance(wind["is_cold"], bool)
    assert len(wind["months"]) <= 2


@pytest.mark.parametrize("said", ["tools", "tools_strict", "json_schema"], indirect=True)
def test_it_gets_a_valid_object_at_the_first_try_in_every_mode(said):
    assert said.pop("tokens") > 0
    check(said)


@pytest.mark.parametrize("said", ["partial", "partial_tools"], indirect=True)
def test_it_sees_an_object_grow_while_it_streams(said):
    assert len(said) > 2
    assert said[0]["is_cold"] is None
    check(said[-1])


@pytest.mark.parametrize("said", ["repaired"], indirect=True)
def test_it_asks_again_with_the_reason_in_the_conversation(said):
    first, second = said["asked"][:2]
    assert second > first
    assert "not a wind that anybody would want" in said["says"]
