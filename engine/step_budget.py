"""How many tokens a step may have after one did not fit the memory. Knows numbers, no memory."""

_FIRST_PATIENCE = 64
_MAX_PATIENCE = 1 << 14


class StepBudget:
    """Halves with a step that does not fit, and doubles after many that do, up to `most`.

    Memory that another process took for a moment comes back. If it does not, a doubling is found
    out by a step that does not fit, and the next one is tried half as often.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        self._patience = _FIRST_PATIENCE
        self._num_good = 0
        self._was_doubled = False

    def shrink(self, num_tokens: int) -> None:
        """A step of so many, at least two, does not fit."""
        self.now = num_tokens // 2
        self._num_good = 0
        if self._was_doubled:
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
            self._was_doubled = False

    def note_good(self) -> None:
        """A step did fit."""
        if self.now == self.most:
            return
        self._num_good += 1
        if self._num_good == self._patience:
            self.now = min(2 * self.now, self.most)
            self._num_good = 0
            self._was_doubled = True
