"""The engine's errors: a request error has the API's code, a load error stops the start."""


class EngineError(Exception):
    """Something a caller caused. `code` is stable, `param` names the request field if any."""

    code = "engine_error"
    param: str | None = None


class PromptTooLong(EngineError):
    """The prompt, or prompt and answer together, do not fit the model's context."""

    code = "context_length_exceeded"

    def __init__(self, num_tokens: int, limit: int, param: str = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {limit} tokens, but the request needs "
            f"{num_tokens}. Shorten the prompt or lower max_tokens."
        )
        self.param = param


class InvalidInput(EngineError):
    """A value that only the model's own files can judge: a token id, a template's demand."""

    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class OutOfMemory(EngineError):
    """The device has not the memory for a step, however small: no request is to blame for it."""

    code = "out_of_memory"


class LoadError(EngineError):
    """The model cannot be served. The message is one sentence that says what to do."""

    code = "load_error"
