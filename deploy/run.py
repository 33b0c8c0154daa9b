"""`tramontane run`: generate in this process, with the same engine and text path, without Redis."""

import argparse
import contextlib
import importlib
import secrets
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count

import msgspec

from api.schema.decode import invalid
from api.schema.sampling import SamplingFields
from deploy.chat import Chat, prompted_lines
from deploy.client import Message
from deploy.errors import StartError
from deploy.preflight import find_model
from engine.config import EngineConfig
from engine.errors import EngineError, LoadError
from engine.messages import EngineLike, SequenceRequest
from engine.progress_bar import Bar
from engine.text.text_model import TextModel, load_text_model
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress
from workers.choice import Choice
from workers.config import WorkerConfig, engine_config, template_choice
from workers.contract import Job, Sampling
from workers.environment import load, variables
from workers.prepare import prepare

SUMMARY = "generate in one process, without a server; with no prompt, from a pipe or a terminal"
CONFIGS = (WorkerConfig,)

_NUMBERS = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "max_tokens": int,
    "seed": int,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`."""
    parser.add_argument("-i", "--prompt", help="what to answer")
    parser.add_argument("--system", default="", help="the system message")
    parser.add_argument("--stop", action="append", default=[], help="end at this text")
    parser.add_argument(
        "--no-chat-template", action="store_true", help="continue the prompt as it is"
    )
    for name, kind in _NUMBERS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Load the model and answer. Raises StartError."""
    sampling = _sampling(values)
    return _answer(_load(load(WorkerConfig, environ), environ, sampling), values)


def _sampling(values: argparse.Namespace) -> Sampling:
    """The flags within the limits that a request has. Raises StartError."""
    given = {name: vars(values)[name] for name in _NUMBERS if vars(values)[name] is not None}
    try:
        msgspec.convert({"stop": values.stop, **given}, SamplingFields)
    except msgspec.ValidationError as error:
        raise StartError(str(invalid(str(error)))) from error
    return Sampling(**{"seed": secrets.randbits(63), "stop": tuple(values.stop), **given})


def _answer(model: "LocalModel", values: argparse.Namespace) -> int:
    prompt = values.prompt
    if prompt is None and sys.stdin.isatty():
        return Chat(model.chat, values.system).run(prompted_lines(), is_interactive=True)
    prompt = sys.stdin.read() if prompt is None else prompt
    if values.no_chat_template:
        pieces = model.complete(prompt)
    else:
        system = [{"role": "system", "content": values.system}] if values.system else []
        pieces = model.chat([*system, {"role": "user", "content": prompt}])
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _load(config: WorkerConfig, environ: Mapping[str, str], sampling: Sampling) -> "LocalModel":
    files, _ = find_model(config, environ)
    try:
        text = load_text_model(files, template_choice(config))
        with contextlib.closing(Bar(f"Loading {files.name}")) as bar:
            engine = _factory(config.engine)(files, engine_config(config, variables()), bar)
    except LoadError as error:
        raise StartError(str(error)) from error
    return LocalModel(engine, text, files.name, sampling)


def _factory(name: str) -> Callable[[ModelFiles, EngineConfig, Progress], EngineLike]:
    """Imported here and not above: torch takes seconds, and a wrong flag should answer at once."""
    module, _, function = name.partition(":")
    try:
        factory: Callable[..., EngineLike] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StartError(f"the engine {name} cannot be imported ({error})") from error
    return factory


class LocalModel:
    """Answers one prompt at a time, the way a worker would."""

    def __init__(self, engine: EngineLike, text: TextModel, name: str, sampling: Sampling) -> None:
        self._engine = engine
        self._text = text
        self._name = name
        self._sampling = sampling
        self._ids = (f"run-{number}" for number in count())

    def chat(self, messages: Sequence[Message]) -> Generator[str]:
        """The answer to a conversation. Raises StartError."""
        return self._generate(self._job(kind="chat", messages=list(messages)))

    def complete(self, prompt: str) -> Generator[str]:
        """What follows `prompt`, no template applied. Raises StartError."""
        return self._generate(self._job(kind="completion", prompts=[prompt]))

    def _job(self, **what: object) -> Job:
        return Job(
            id=next(self._ids),
            model=self._name,
            home="",
            created_s=0,
            sampling=self._sampling,
            **what,  # type: ignore[arg-type]
        )

    def _generate(self, job: Job) -> Generator[str]:
        choice = Choice(0, self._text.tokenizer, job.sampling, is_continuation=job.continues_text)
        try:
            plan = prepare(job, self._text, self._engine.info)[0]
            self._engine.add(
                SequenceRequest(id=job.id, prompt_ids=plan.prompt_ids, params=plan.params)
            )
            while choice.finish is None:
                for output in self._engine.step():
                    if output.error is not None:
                        raise EngineError(output.error[1])
                    yield choice.push(output.token_ids, output.finish).text
        except EngineError as error:
            raise StartError(str(error)) from error
        finally:
            self._engine.cancel(job.id)
