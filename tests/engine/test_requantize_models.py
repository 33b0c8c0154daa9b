"""Other weights for the built-in model while it writes: they are those of a fresh load."""

import shutil
import time
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine, load_generator
from engine.messages import SequenceRequest
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelFiles, ModelRef, resolve
from engine.weights.footprint import model_bytes
from engine.weights.isq import requested_isq
from engine.weights.isq_settings import with_imatrix_in_use
from kernels.packed import PackedMatrix
from tests.engine.hash_model import ids_of, request
from tests.engine.test_requantize import Outputs, run_until

CPU = torch.device("cpu")
PROMPTS = {str(n): [(37 * n + 11 * i) % 2000 + 5 for i in range(4 + 3 * n)] for n in range(5)}
MAX_TOKENS = 40


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return resolve(ModelRef(model="builtin"))


def load(files: ModelFiles, isq: str) -> Engine:
    return load_generator(files, EngineConfig(isq=isq, max_seqs=8, kv_cache_bytes=8_000_000))


def requests(before: dict[str, list[int]]) -> list[SequenceRequest]:
    return [
        request(
            prompt,
            id=name,
            output_ids=before.get(name, []),
            max_tokens=MAX_TOKENS,
            ignore_eos=True,
        )
        for name, prompt in PROMPTS.items()
    ]


def change(engine: Engine, isq: str, outputs: Outputs) -> str:
    """Change the weights while steps run; what `take_weights` says."""
    engine.requantize(isq)
    deadline = time.monotonic() + 60
    while (said := engine.take_weights()) is None:
        assert time.monotonic() < deadline
        if not engine.has_work():  # an engine process waits then, and takes nothing from the load
            time.sleep(0.005)
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    return said


def recorded(engine: Engine) -> list[torch.Tensor]:
    """What the engine's model says from now on."""
    model, logits = engine._runner.model, []
    original = model.logits

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        logits.append(original(hidden).clone())
        return logits[-1].clone()

    model.logits = logits_of  # type: ignore[method-assign]
    return logits


def test_from_q2k_to_q8_0_is_a_fresh_q8_0_logit_for_logit(files):
    outputs: Outputs = {}
    engine = load(files, "Q2K")
    for item in requests({}):
        engine.add(item)
    run_until(engine, outputs, lambda: len(outputs) == len(PROMPTS))
    engine.requantize("Q8_0")
    while (said := engine.take_weights()) is None:
        if sum(len(ids_of(some)) for some in outputs.values()) < 60:  # leave some for later
            for output in engine.step():
                outputs.setdefault(output.id, []).append(output)
        else:
            time.sleep(0.005)
    assert (said, engine.info.isq) == ("", "Q8_0")
    before = {name: ids_of(some) for name, some in outputs.items()}
    assert all(0 < len(ids) < MAX_TOKENS for ids in before.values())
    changed = recorded(engine)
    run_until(engine, outputs, lambda: not engine.has_work())

    expected: Outputs = {}
    fresh = load(files, "Q8_0")
    whole = recorded(fresh)
    for item in requests(before):
        fresh.add(item)
    run_until(fresh, expected, lambda: not fresh.has_work())
    assert len(changed) == len(whole) > 1
    for ours, theirs in zip(changed, whole, strict=True):
        assert torch.equal(ours, theirs)
    for name, ids in before.items():
        assert ids_of(outputs[name]) == ids + ids_of(expected[name])
        assert len(ids_of(outputs[name])) == MAX_TOKENS


@pytest.mark.parametrize("isq", ["Q4K", ""], ids=["to Q4K", "to the files' own"])
def test_greedy_tokens_afterwards_are_those_of_a_fresh_engine(files, isq):
    engine = load(files, "Q8_0")
    assert change(engine, isq, {}) == ""
    fresh, sides = load(files, isq), []
    for one in (engine, fresh):
        outputs: Outputs = {}
        for item in requests({}):
            one.add(item)
        run_until(one, outputs, lambda one=one: not one.has_work())
        sides.append({name: ids_of(some) for name, some in outputs.items()})
    assert sides[0] == sides[1]


def test_all_types_of_a_model_have_one_name_so_a_job_goes_on_in_another(files):
    """A worker continues another one's job if their fingerprints are the same."""
    names = {load(files, isq).info.fingerprint for isq in ("", "Q4K", "Q8_0")}
    assert len(names) == 1
    outputs: Outputs = {}
    first = load(files, "Q8_0")
    first.add(request(PROMPTS["1"], max_tokens=5, ignore_eos=True))
    run_until(first, outputs, lambda: not first.has_work())
    before = ids_of(outputs["a"])
    other = load(files, "Q4K")
    other.add(request(PROMPTS["1"], output_ids=before, max_tokens=12, ignore_eos=True))
    run_until(other, outputs, lambda: not other.has_work())
    assert len(ids_of(outputs["a"])) == 12


def test_what_does_not_fit_beside_the_old_weights_is_refused_before_it_is_loaded(
    files, monkeypatch
):
    monkeypatch.setattr("engine.weights.footprint.available_bytes", lambda: 1_000_000)
    engine = load(files, "Q4K")
    said = change(engine, "Q8_0", {})
    assert said.startswith("The new weights take 0.00 GB beside the old ones")
    assert said.endswith("or start the worker again with --isq.")
    assert engine.info.isq == "Q4K"


def test_files_that_were_replaced_are_refused(files, tmp_path):
    copy = shutil.copytree(files.directory, tmp_path / "m", ignore=shutil.ignore_patterns("*.py"))
    engine = load(resolve(ModelRef(model=str(copy))), "")
    path = Path(copy) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # the old file is mapped
    path.write_bytes(data)
    said = change(engine, "Q8_0", {})
    assert "hold other weights than at the start" in said


def test_a_type_without_a_use_for_the_imatrix_goes_without_it():
    config = EngineConfig(isq="Q4K", imatrix="m.dat")
    assert with_imatrix_in_use(config) == config
    other = EngineConfig(isq="Q8_0", imatrix="m.dat")
    assert with_imatrix_in_use(other) == EngineConfig(isq="Q8_0")
    assert with_imatrix_in_use(EngineConfig(imatrix="m.dat")) == EngineConfig()


@pytest.mark.parametrize("isq", ["", "Q2K", "Q4K", "Q8_0", "FP8", "HQQ4"])
def test_the_room_that_is_asked_for_is_what_the_weights_take(files, isq):
    model = load(files, isq)._runner.model
    assert isinstance(model, torch.nn.Module)
    parts = {p.data_ptr(): p.nbytes for p in model.parameters() if p.nbytes}
    for module in model.modules():
        packed = getattr(module, "packed", None) or ()
        for matrix in [packed] if isinstance(packed, PackedMatrix) else packed:
            parts[matrix.data.data_ptr()] = matrix.data.nbytes
    asked = requested_isq(EngineConfig(isq=isq), CPU)
    expected = model_bytes(open_checkpoint(files), asked, torch.float32, CPU)
    assert sum(parts.values()) == pytest.approx(expected, rel=0.1)
