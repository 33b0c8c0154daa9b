"""A progress bar on a terminal, log lines elsewhere. Knows two numbers, not what progresses."""

import logging
import sys

from tqdm.std import tqdm

logger = logging.getLogger(__name__)

LOG_PERCENT = 25


class Bar:
    """Call it with (done, total). A bar appears with the first call and leaves no line."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm | None = None
        self._logged_percent = 0

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._draw(done, total)
        else:
            self._log(100 * done // max(total, 1))

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                desc=self._title, unit="B", unit_scale=True, unit_divisor=1024, leave=False
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _log(self, percent: int) -> None:
        if percent >= self._logged_percent + LOG_PERCENT or percent < self._logged_percent:
            self._logged_percent = percent - percent % LOG_PERCENT
            logger.info("%s: %d %%", self._title, percent)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
