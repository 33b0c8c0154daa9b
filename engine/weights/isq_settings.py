"""What a user asks of in-situ quantisation, checked before a model is fetched. Torch-free."""

from pathlib import Path

from engine.config import EngineConfig
from engine.errors import InvalidInput, LoadError
from engine.quant.names import IMATRIX_NAMES, isq_name
from engine.weights.topology import Topology, read_topology


def check_isq(config: EngineConfig) -> Topology:
    """The topology, without entries if none is asked for.

    Raises LoadError for an unknown type, a topology that makes no sense, and an imatrix that is not
    there or that no type asked for has a use for.
    """
    topology = read_topology(config.topology) if config.topology else Topology()
    try:
        types = topology.types() | ({isq_name(config.isq)} if config.isq else set())
    except InvalidInput as error:
        raise LoadError(str(error)) from error
    if config.imatrix:
        _check_imatrix(config.imatrix, types)
    return topology


def _check_imatrix(path: str, types: frozenset[str]) -> None:
    takers = ", ".join(IMATRIX_NAMES)
    if not types & set(IMATRIX_NAMES):
        asked = f"{', '.join(sorted(types))} has" if types else "without --isq there is"
        raise LoadError(f"{asked} no use for an imatrix; the types that have are {takers}.")
    if not Path(path).expanduser().is_file():
        raise LoadError(f"the imatrix {path} is not there.")
