"""`tramontane api`: becomes the HTTP server, for a Procfile or a container."""

import argparse
import os
from collections.abc import Mapping

from api.config import ApiConfig
from deploy import roles

SUMMARY = "run the HTTP server: put requests into Redis, stream the answers back"
CONFIGS = (ApiConfig,)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`api` has the settings' flags alone."""


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Replace this process, so that signals and the exit status are the server's own."""
    command = roles.api_command(environ)
    os.execve(command[0], command, roles.child_environment(environ))
