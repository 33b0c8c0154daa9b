"""How gunicorn runs the app: its worker class and its options. Knows no route."""

import sys
from pathlib import Path
from typing import Any

from gunicorn.workers.gasgi import ASGIWorker

from api.config import ApiConfig
from api.shared_counts import share

APP = "api.app:create_app()"
DRAIN_MARGIN_S = 2.0  # streams end this long before gunicorn would cut them

_GUNICORN_LOG = {
    "off": "critical",
    "error": "error",
    "warn": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
}


class Worker(ASGIWorker):  # type: ignore[misc]
    """gunicorn's ASGI worker, with word to the app that it is about to stop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        share()  # gunicorn makes the object before it forks

    def handle_exit_signal(self) -> None:
        """SIGTERM: open streams go on for a while, then end so that clients can resume them."""
        super().handle_exit_signal()
        self.asgi.begin_drain(max(0.0, self.cfg.graceful_timeout - DRAIN_MARGIN_S))

    def handle_quit_signal(self) -> None:
        """SIGINT or SIGQUIT: end the streams now; their jobs live on."""
        super().handle_quit_signal()
        self.asgi.begin_drain(0.0)


def command(config: ApiConfig) -> list[str]:
    """The command line that serves the app; the app itself reads the environment."""
    options = {
        "worker-class": f"{Worker.__module__}.{Worker.__qualname__}",
        "bind": f"[{config.host}]:{config.port}"
        if ":" in config.host
        else f"{config.host}:{config.port}",
        "workers": str(config.web_concurrency),
        "graceful-timeout": str(config.graceful_timeout_s),
        "timeout": "30",
        "keep-alive": "5",
        "log-level": _GUNICORN_LOG.get(config.log, "info"),
    }
    if Path("/dev/shm").is_dir():
        options["worker-tmp-dir"] = "/dev/shm"  # heartbeats must not wait for a disk
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "gunicorn", "--no-control-socket", *flags, APP]
