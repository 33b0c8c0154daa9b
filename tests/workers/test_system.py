"""system_fingerprint: one name for what the same seed gives the same answer on."""

import re
from importlib import metadata

import msgspec
import pytest

from tests.workers.test_prepare import INFO
from workers import system
from workers.system import system_fingerprint


def changed(**fields):
    return system_fingerprint(msgspec.structs.replace(INFO, **fields))


def test_it_has_openai_s_form_and_is_the_same_for_the_same():
    assert re.fullmatch("fp_[0-9a-f]{16}", system_fingerprint(INFO))
    assert changed() == system_fingerprint(INFO)
    assert changed(device="cuda:0") == changed(device="cuda:1")


@pytest.mark.parametrize("fields", [{"fingerprint": "w"}, {"device": "cuda"}, {"dtype": "y"}])
def test_other_weights_devices_and_types_have_others(fields):
    assert changed(**fields) != system_fingerprint(INFO)


def test_another_version_has_another_and_a_bare_checkout_one_as_well(monkeypatch):
    names = {system_fingerprint(INFO)}
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    names.add(system_fingerprint(INFO))
    monkeypatch.undo()
    monkeypatch.setattr(system, "PACKAGE", "nobody-has-this")
    names.add(system_fingerprint(INFO))
    assert len(names) == 3
