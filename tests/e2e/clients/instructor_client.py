"""instructor against the server at argv[1]: what each scenario saw, as one JSON object.

Run by a Python of its own, for it wants an older openai than the other tests.
"""

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal

import instructor
import openai
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel, Field, field_validator

MESSAGES: Any = [{"role": "user", "content": "Which wind is it?"}]


class Wind(BaseModel):
    """A wind."""

    name: Literal["tramontane", "mistral", "bora"]
    speed: int = Field(ge=0, le=99)
    is_cold: bool
    months: list[Literal["January", "March", "May"]] = Field(max_length=2)


class Impossible(BaseModel):
    """A wind that no answer is."""

    name: Literal["tramontane"]

    @field_validator("name")
    @classmethod
    def refuse(cls, name: str) -> str:
        """Whatever it is."""
        raise ValueError(f"{name} is not a wind that anybody would want")


def make(url: str, mode: str) -> tuple[Any, list[int]]:
    """A client, and a list that gets the number of messages of each of its requests."""
    asked: list[int] = []
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
    patched = instructor.from_openai(client, mode=instructor.Mode[mode])
    patched.on("completion:kwargs", lambda *_, **kwargs: asked.append(len(kwargs["messages"])))
    return patched, asked


def extracted(url: str, mode: str) -> Any:
    """One object."""
    client, _ = make(url, mode)
    wind, raw = client.chat.completions.create_with_completion(
        model="any", messages=MESSAGES, response_model=Wind, max_retries=1, temperature=1.0, seed=3
    )
    return {**wind.model_dump(), "tokens": raw.usage.completion_tokens}


def partial(url: str, mode: str) -> Any:
    """One object as it grows."""
    client, _ = make(url, mode)
    stream = client.chat.completions.create_partial(
        model="any", messages=MESSAGES, response_model=Wind, max_retries=1, temperature=1.0, seed=3
    )
    return [wind.model_dump() for wind in stream]


def repaired(url: str, mode: str) -> Any:
    """An object that is never valid: asked again with the reason, then given up."""
    client, asked = make(url, mode)
    try:
        client.chat.completions.create(
            model="any", messages=MESSAGES, response_model=Impossible, max_retries=2
        )
    except InstructorRetryException as error:
        return {"asked": asked, "says": str(error)}
    raise AssertionError("it was taken")


SCENARIOS: dict[str, tuple[Callable[[str, str], Any], str]] = {
    "tools": (extracted, "TOOLS"),
    "tools_strict": (extracted, "TOOLS_STRICT"),
    "json_schema": (extracted, "JSON_SCHEMA"),
    "partial": (partial, "JSON_SCHEMA"),
    "partial_tools": (partial, "TOOLS"),
    "repaired": (repaired, "TOOLS"),
}


def main(url: str) -> None:
    """Run all."""
    said: dict[str, Any] = {}
    for name, (scenario, mode) in SCENARIOS.items():
        try:
            said[name] = scenario(url, mode)
        except Exception:
            said[name] = {"failed": traceback.format_exc()}
    sys.stdout.write(json.dumps(said))


main(sys.argv[1])
