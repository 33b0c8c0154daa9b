"""What rows are called that others look for."""

PEERS = "transformers"
OURS = "the engine, 32 sequences"


def step_name(kind: str, size: int) -> str:
    """Of the row that has an engine's decode step."""
    return f"{kind}, batch {size}, the engine's step"
