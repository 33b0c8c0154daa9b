"""Runs the cases of one part in a process of its own, and tells what it finds line by line.

A kernel that reads where it must not ends the whole process's use of the GPU; so this ends then,
and whoever started it starts it again behind that case (supervisor.py).
"""

import gc
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from tests.bench.on_gpu.row import Ceilings, Row  # noqa: E402


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: the cases of `part` from the one of number `first` on, for `seconds`."""

    part: str
    seconds: float
    device: str
    scale: str
    lines: str = ""  # the file that is told
    first: int = 0
    ceilings: Ceilings | None = None
    engine: dict[str, str | int | float | bool] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A case begins, or a row has been found."""

    begun: str = ""
    number: int = 0
    row: Row | None = None


def run(order: Order, tell: Callable[[Line], None]) -> None:
    """All cases, each by itself. Raises what ended the GPU's use, after it was told."""
    from tests.bench.on_gpu.parts import PARTS
    from tests.bench.on_gpu.setting import make_setting

    setting = make_setting(order.device, order.scale, order.ceilings, order.engine)
    end = time.monotonic() + order.seconds
    for number, case in enumerate(PARTS[order.part].cases(setting)):
        if number < order.first:
            continue
        if time.monotonic() > end:
            tell(Line(row=_row(order, case.name, "skipped", "there was no time left")))
            continue
        tell(Line(begun=case.name, number=number))
        try:
            for row in case.run():
                tell(Line(row=row))
        except Exception as error:
            tell(Line(row=_row(order, case.name, "failed", _reason(error))))
            setting.timer.wait()  # raises if the GPU cannot be used any more
        _forget(order)


def _row(order: Order, name: str, state: str, note: str) -> Row:
    return msgspec.convert({"part": order.part, "name": name, "state": state, "note": note}, Row)


def _reason(error: Exception) -> str:
    """One line: what, and where in our files."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f[0]]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__} at {place}: {text}"


def _forget(order: Order) -> None:
    """Give the memory of a case back."""
    import torch

    gc.collect()
    if order.device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Obey the order given as JSON."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    from kernels import interpreter

    if order.device == "cpu":
        interpreter.use_interpreter()
        interpreter.repair_bfloat16()
    else:
        interpreter.use_compiler()
    logging.basicConfig(level=logging.WARNING)
    with Path(order.lines).open("ab", buffering=0) as file:

        def tell(line: Line) -> None:
            file.write(msgspec.json.encode(line) + b"\n")

        run(order, tell)


if __name__ == "__main__":
    main()
