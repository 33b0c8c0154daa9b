"""What can be found wrong before any process starts: the port, the model, its architecture.

Torch-free.
"""

import contextlib
import errno
import socket
from collections.abc import Mapping

from deploy.errors import StartError
from engine.capacity import check_sizes
from engine.config import ModelConfig
from engine.errors import LoadError
from engine.models.registry import check_architecture
from engine.progress_bar import Bar
from engine.weights.files import ModelFiles, resolve
from engine.weights.isq_settings import check_isq
from engine.weights.model_config import read_model_config
from workers.config import WorkerConfig, engine_config, model_ref


def claim_port(host: str, port: int) -> int:
    """`port` if it can be listened on; for port 0 one that is free. Raises StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(_explain(error, host, port)) from error
        return int(probe.getsockname()[1])


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: stop the program that has it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has: choose one over 1023 with --port"
    return f"cannot listen on {host}: {error.strerror}; choose another address with --host"


def find_model(
    settings: WorkerConfig, environ: Mapping[str, str]
) -> tuple[ModelFiles, ModelConfig]:
    """The model's files, downloaded if need be, and its shape. Raises StartError."""
    ref = model_ref(settings)
    try:
        check_sizes(engine_config(settings))
        check_isq(engine_config(settings))
        with contextlib.closing(Bar(f"Downloading {ref.model}")) as bar:
            files = resolve(ref, bar, environ)
        config = read_model_config(files)
        check_architecture(config.architecture)
    except LoadError as error:
        raise StartError(str(error)) from error
    return files, config
