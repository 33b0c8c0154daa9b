"""`tramontane worker`: becomes a worker process, for a Procfile or a container."""

import argparse
import os
from collections.abc import Mapping

from deploy import roles
from workers.config import WorkerConfig

SUMMARY = "run one worker: take jobs from Redis, answer them with the engine"
CONFIGS = (WorkerConfig,)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`worker` has the settings' flags alone."""


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Replace this process, so that signals and the exit status are the worker's own."""
    command = roles.worker_command()
    os.execve(command[0], command, roles.child_environment(environ))
