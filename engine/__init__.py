"""Token ids in, token ids out; for Python programs texts too: `from engine import LLM`.

What is exported is imported when it is asked for: other packages use parts of this one without
torch, and fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.llm import LLM
    from engine.llm_guided import GuidedDecodingParams, StructuredOutputsParams
    from engine.llm_outputs import CompletionOutput, Logprob, RequestOutput
    from engine.llm_params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "GuidedDecodingParams",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
]

_MODULES = {
    "LLM": "engine.llm",
    "CompletionOutput": "engine.llm_outputs",
    "GuidedDecodingParams": "engine.llm_guided",
    "Logprob": "engine.llm_outputs",
    "RequestOutput": "engine.llm_outputs",
    "SamplingParams": "engine.llm_params",
    "StructuredOutputsParams": "engine.llm_guided",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
