"""What a user asks of in-situ quantisation, checked before a model is fetched. Torch-free."""

from pathlib import Path

import msgspec

from engine.config import EngineConfig
from engine.errors import InvalidInput, LoadError
from engine.quant.names import IMATRIX_NAMES, isq_name
from engine.weights.topology import Topology, read_topology


def check_isq(config: EngineConfig) -> Topology:
    """The topology, without entries if none is asked for.

    Raises LoadError for an unknown type, a topology that makes no sense, and an imatrix that is not
    there or that no type asked for has a use for.
    """
    topology = _topology(config)
    types = _types(config, topology)
    if config.imatrix:
        _check_imatrix(config.imatrix, types)
    return topology


def _topology(config: EngineConfig) -> Topology:
    return read_topology(config.topology) if config.topology else Topology()


def _types(config: EngineConfig, topology: Topology) -> frozenset[str]:
    try:
        return topology.types() | ({isq_name(config.isq)} if config.isq else set())
    except InvalidInput as error:
        raise LoadError(str(error)) from error


def with_imatrix_in_use(config: EngineConfig) -> EngineConfig:
    """The same, without the imatrix if no type asked for has a use for it.

    That is fine where the type is not the one that the imatrix was given with. Raises LoadError.
    """
    plain = msgspec.structs.replace(config, imatrix="")
    return (
        config
        if config.imatrix and _types(config, _topology(config)) & set(IMATRIX_NAMES)
        else plain
    )


def _check_imatrix(path: str, types: frozenset[str]) -> None:
    takers = ", ".join(IMATRIX_NAMES)
    if not types & set(IMATRIX_NAMES):
        asked = f"{', '.join(sorted(types))} has" if types else "without --isq there is"
        raise LoadError(f"{asked} no use for an imatrix; the types that have are {takers}.")
    if not Path(path).expanduser().is_file():
        raise LoadError(f"the imatrix {path} is not there.")
