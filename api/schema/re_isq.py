"""The body of /v1/re_isq and the object that it answers with. Knows no Redis and no route."""

from typing import Literal

import msgspec

from api.errors import ApiError, ErrorBody

State = Literal["in_progress", "completed", "failed"]


class ReIsqRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ggml_type` is mistral.rs' name for `isq_type`; a number is a level of bits."""

    isq_type: str | int | None = None
    ggml_type: str | int | None = None
    model: str | None = None

    @property
    def asked(self) -> str:
        """The type as the client wrote it. Raises ApiError."""
        if self.isq_type is None and self.ggml_type is None:
            raise ApiError(
                "missing_required_parameter",
                "Missing required parameter: 'isq_type' (or 'ggml_type').",
                "isq_type",
            )
        if self.isq_type is not None and self.ggml_type is not None:
            raise ApiError(
                "invalid_value",
                "'isq_type' and 'ggml_type' are two names of one parameter: give one of them.",
                "ggml_type",
            )
        return str(self.ggml_type if self.isq_type is None else self.isq_type)


class WorkerWeights(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the weights of one worker. A type is null where they are as in the files."""

    id: str
    before: str | None
    after: str | None
    took_ms: int
    error: str | None


class ReIsq(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a model's weights. While it is in progress, `workers` are those that have it."""

    id: str
    object: Literal["re_isq"] = "re_isq"
    state: State
    model: str
    isq_type: str
    created_at: int
    ended_at: int | None
    workers: list[WorkerWeights]
    error: ErrorBody | None
