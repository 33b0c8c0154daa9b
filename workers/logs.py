"""Sets up logging for a worker's processes. Knows levels and which libraries talk too much."""

import logging
import sys
import traceback

LEVELS = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG - 5,
}
# arq logs arguments below WARNING, and no prompt may reach a log line.
QUIET = ("arq", "redis", "asyncio", "httpx", "urllib3", "filelock", "huggingface_hub")


def configure(level: str) -> None:
    """Log to stderr from `level` (a name of the setting `log`) on."""
    logging.basicConfig(
        level=LEVELS[level],
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))


def without_message(error: BaseException) -> str:
    """The error's type and where it was raised; its message may quote a prompt."""
    return "".join((type(error).__name__, "\n", *traceback.format_tb(error.__traceback__)))
