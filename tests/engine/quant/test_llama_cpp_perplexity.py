"""Perplexity per type beside llama.cpp's for the same type, where llama-cpp-python is installed."""

import sys

import pytest

from tests.bench.perplexity import FILE_TYPES, measure, subjects
from tests.bench.perplexity_rows import problems
from tests.engine.llama_cpp_peer import library

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


def test_every_type_of_the_built_in_model_is_as_good_as_llama_cpps(tmp_path):
    library()
    rows = list(measure(next(subjects(tmp_path)), sys.executable, tmp_path))
    assert len([row for row in rows if row.llama_cpp is not None]) == len(FILE_TYPES)
    assert not problems(rows)
    for row in rows:
        if row.llama_cpp is not None:
            # One file in two engines: llama.cpp rounds activations, ours does not here.
            assert row.its_file == pytest.approx(row.llama_cpp, rel=5e-3)
