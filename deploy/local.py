"""`tramontane serve`: Redis, a worker and the HTTP server on one machine, from checks to Ctrl-C."""

import argparse
import signal
import time
from collections.abc import Mapping
from types import FrameType

from api.config import ApiConfig
from deploy import preflight, ready, roles, settings
from deploy.check import check_redis
from deploy.config import LocalConfig
from deploy.redis_server import EmbeddedRedis
from deploy.signals import Signals
from deploy.supervisor import Role, Supervisor, say
from engine.weights.files import ModelFiles
from workers.config import WorkerConfig
from workers.environment import load

SUMMARY = "serve a model on this machine; without --model, the built-in one"
CONFIGS = tuple(settings.READERS.values())

# A person who presses Ctrl-C waits seconds; a fleet that rolls waits for its streams. What is
# still running then is in Redis' file, and goes on with the next start.
_LOCAL_DEFAULTS = {"TRAMONTANE_GRACEFUL_TIMEOUT_S": "3", "TRAMONTANE_DRAIN_S": "1"}
_MARGIN_S = 3.0
_READY_POLL_S = 0.2
_IDLE_POLL_S = 1.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`serve` has the settings' flags alone."""


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Check, start, announce, watch, stop. 0 after Ctrl-C or SIGTERM. Raises StartError."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _serve({**_LOCAL_DEFAULTS, **environ})
    except KeyboardInterrupt:  # before anything but Redis was up
        return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(environ: dict[str, str]) -> int:
    api = load(ApiConfig, environ)
    environ["PORT"] = str(preflight.claim_port(api.host, api.port))
    processes = _roles(environ)
    files, _ = preflight.find_model(load(WorkerConfig, environ), environ)
    redis = _redis(environ)
    with Signals() as signals:
        supervisor = Supervisor(signals, redis)
        try:
            supervisor.start(processes, roles.child_environment(environ))
            return _watch(supervisor, signals, _Announcement(environ, files))
        finally:
            if signals.num_stops:
                say("stopping")
            supervisor.stop()


def _redis(environ: dict[str, str]) -> EmbeddedRedis | None:
    """Check the Redis that `environ` names; if it names none, start one and enter it there."""
    if url := environ.get("REDIS_URL"):
        check_redis(url)
        return None
    config = load(LocalConfig, environ)
    redis = EmbeddedRedis(
        config.data_path, binary=config.redis_server_bin, maxmemory=config.redis_maxmemory
    )
    redis.start()
    environ["REDIS_URL"] = redis.url
    return redis


def _roles(environ: Mapping[str, str]) -> list[Role]:
    """The worker first: it is the last to stop, so that streams can end."""
    drain_s = load(WorkerConfig, environ).drain_s
    graceful_s = load(ApiConfig, environ).graceful_timeout_s
    return [
        Role(
            "worker",
            roles.worker_command(),
            # its jobs outlive it, and with us gone there is no Redis to hand them back to
            signal.SIGKILL,
            drain_s + _MARGIN_S,
            frozenset({2}),  # a model or a setting that does not load
        ),
        Role(
            "web",
            roles.api_command(environ),
            signal.SIGQUIT,  # gunicorn's quick stop: it takes its processes with it
            graceful_s + _MARGIN_S,
            frozenset({1, 3, 4}),  # gunicorn: bad options, failed boot, failed import
        ),
    ]


class _Announcement:
    """The ready line, once. The card must be newer than we are: Redis remembers earlier runs."""

    def __init__(self, environ: Mapping[str, str], files: ModelFiles) -> None:
        self._api = load(ApiConfig, environ)
        self._name = load(WorkerConfig, environ).model_name or files.name
        self._since_s = int(time.time())

    def line(self) -> str | None:
        card = ready.find_card(self._api.redis_url, self._name, self._since_s)
        if card is None or not ready.is_ready(self._api.host, self._api.port):
            return None
        return ready.ready_line(card, ready.base_url(self._api.host, self._api.port))


def _watch(supervisor: Supervisor, signals: Signals, announcement: _Announcement) -> int:
    while not signals.num_stops:
        if supervisor.tend() is not None:
            return 2
        if not supervisor.is_proven and (line := announcement.line()):
            say(line)
            supervisor.is_proven = True
        signals.wait(_IDLE_POLL_S if supervisor.is_proven else _READY_POLL_S)
    return 0
