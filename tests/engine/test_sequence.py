"""A sequence as it comes in."""

import subprocess
import sys

from engine.config import SamplingParams
from engine.messages import SequenceRequest
from engine.sequence import Sequence


def make(output_ids=(), **params):
    request = SequenceRequest(
        id="a",
        prompt_ids=[1, 2, 3],
        output_ids=list(output_ids),
        params=SamplingParams(max_tokens=4, **params),
    )
    return Sequence(request, eos_ids=(9,), max_length=100)


def test_what_an_earlier_attempt_made_counts_as_generated():
    sequence = make(output_ids=[4, 5])
    assert list(sequence.token_ids) == [1, 2, 3, 4, 5]
    assert list(sequence.output_ids) == [4, 5]
    assert len(sequence) == 5
    assert sequence.num_prompt_tokens == 3
    assert sequence.rule.max_length == 7


def test_the_last_token_decides_whether_it_has_ended():
    assert make(output_ids=[4]).finish() is None
    assert make(output_ids=[4, 9]).finish() == "stop"
    assert make(output_ids=[4, 4, 4, 4]).finish() == "length"


def test_the_pure_parts_load_no_torch():
    modules = "engine.scheduler, engine.block_manager, engine.sequence, engine.stopping"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
