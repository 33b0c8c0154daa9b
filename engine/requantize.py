"""Other weights for a model that runs, loaded in a thread of their own. Knows no step.

Steps go first: the thread and those that it starts get the processor when nobody else wants it.
"""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable

from engine.errors import EngineError, LoadError
from engine.runner import Model
from engine.shortage import is_shortage

logger = logging.getLogger(__name__)

NICENESS = 10


class WeightChange:
    """A model that is being loaded. `load` gives it or raises an EngineError that says why not."""

    def __init__(self, isq: str, load: Callable[[], Model]) -> None:
        """Begins at once."""
        self.isq = isq
        self._load = load
        self._model: Model | None = None
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="requantize", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """True when `result` can be asked for."""
        return not self._thread.is_alive()

    def result(self) -> Model:
        """The model. Raises LoadError: one sentence that says why there is none."""
        if self._model is None:
            raise LoadError(self._error)
        return self._model

    def _run(self) -> None:
        _give_way()
        try:
            self._model = self._load()
        except EngineError as error:
            self._error = str(error)
        except Exception as error:  # the engine goes on with the weights that it has
            logger.exception("the weights of type %s cannot be loaded", self.isq)
            self._error = _explain(error)


def _explain(error: Exception) -> str:
    if is_shortage(error):
        return (
            "There is not enough memory for the new weights beside the old ones; choose a smaller "
            "type, or start the worker again with --isq."
        )
    return f"Loading the weights failed ({type(error).__name__}: {error})."


def give_back_memory() -> None:
    """Let the system have what loading needed, and what the old weights were in, beside the steps.

    glibc keeps freed memory, and more of it with every change; giving back a GB takes 0.2 s.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        threading.Thread(target=trim, args=(0,), name="trim", daemon=True).start()


def _give_way() -> None:
    """Linux has a niceness for each thread, and gives it to the threads that one starts."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = max(os.getpriority(os.PRIO_PROCESS, thread), NICENESS)
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
