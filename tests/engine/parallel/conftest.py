"""The fixtures of the families' tests."""

from tests.engine.models.conftest import checkpoints, load_model, reference

__all__ = ["checkpoints", "load_model", "reference"]
