"""The command lines of the two kinds of process that a deployment has. Starts none."""

import sys
from collections.abc import Mapping

from api import server
from api.config import ApiConfig
from deploy import packages
from workers.environment import load


def worker_command() -> list[str]:
    """A worker: jobs from Redis, an engine beside it."""
    return [sys.executable, "-m", "workers"]


def api_command(environ: Mapping[str, str]) -> list[str]:
    """An HTTP server, with our packages before what the current directory may hold."""
    *command, app = server.command(load(ApiConfig, environ))
    return [*command, f"--pythonpath={packages.ROOT}", app]


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which these commands find our packages."""
    return packages.child_environment(environ)
