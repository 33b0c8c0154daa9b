"""The command lines of the two kinds of process that a deployment has. Starts none."""

import sys
from collections.abc import Mapping
from pathlib import Path

from api import server
from api.config import ApiConfig
from api.hooks.callback import check_settings
from api.key_file import configured_keys
from deploy import packages
from deploy.errors import StartError
from workers.environment import SettingError, load
from workers.tracing import check_tracing


def worker_command() -> list[str]:
    """A worker: jobs from Redis, an engine beside it."""
    return [sys.executable, "-m", "workers"]


def api_command(environ: Mapping[str, str]) -> list[str]:
    """An HTTP server, with our packages before what the current directory may hold.

    Raises StartError if it could not write its request log, or would not start with its settings.
    """
    config = load(ApiConfig, environ)
    check_api(config, environ)
    _check_log(config.request_logging_file)
    *command, app = server.command(config)
    return [*command, f"--pythonpath={packages.ROOT}", app]


def check_api(config: ApiConfig, environ: Mapping[str, str]) -> None:
    """Raises StartError for API keys, webhooks or traces that no HTTP server starts with."""
    try:
        configured_keys(config)
        check_settings(config)
        check_tracing(config.otlp_endpoint, environ)
    except SettingError as error:
        raise StartError(str(error)) from error


def _check_log(path: str) -> None:
    try:
        if path:
            Path(path).open("ab").close()
    except OSError as error:
        raise StartError(f"the request log {path} cannot be written: {error.strerror}") from error


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which these commands find our packages."""
    return packages.child_environment(environ)
