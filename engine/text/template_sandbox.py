"""The Jinja environment that chat templates run in: what they may call, and how much they may use.

A template comes with a model's weights, so it is not trusted: no access to Python's internals, no
loader, bounded time, output and values. The bounds stop runaway templates; they are no wall against
one that was built to fill the memory. Knows no messages.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_BUDGET = "_budget"  # the context variable in which each rendering keeps its count


class TemplateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one rendering may use."""

    max_seconds: float = 5.0
    max_chars: int = 1 << 25  # of the output and of any string on the way there
    max_integer: int = 1 << 20  # as an argument of a method or a factor


class TemplateLimitError(jinja2.TemplateRuntimeError):
    """The template went over a limit."""


class TemplateRefusal(jinja2.TemplateRuntimeError):
    """The template called `raise_exception`: it does not accept these messages."""


class TemplateProgram:
    """A compiled template. Raises jinja2.TemplateSyntaxError for one that does not compile."""

    def __init__(self, source: str, limits: TemplateLimits | None = None) -> None:
        self._limits = limits or TemplateLimits()
        environment = _Environment(self._limits)
        self.tree = environment.parse(source)
        self._template = environment.from_string(source)

    def run(self, context: Mapping[str, Any], now_s: float) -> str:
        """Render. Raises jinja2.TemplateError, or whatever the template's own operations raise."""
        budget = _Budget(self._limits)
        variables = {"strftime_now": _clock(now_s), **context, _BUDGET: budget}
        return "".join(budget.count(chunk) for chunk in self._template.generate(variables))


class _Budget:
    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._deadline_s = time.monotonic() + limits.max_seconds
        self._num_chars = 0

    def tick(self) -> None:
        if time.monotonic() > self._deadline_s:
            raise TemplateLimitError(f"it ran for more than {self._limits.max_seconds:g} s")

    def count(self, chunk: str) -> str:
        self.tick()
        self._num_chars += len(chunk)
        if self._num_chars > self._limits.max_chars:
            raise TemplateLimitError(f"it wrote more than {self._limits.max_chars} characters")
        return chunk


class _Environment(ImmutableSandboxedEnvironment):
    """As Hugging Face sets it up (transformers' chat_template_utils), and with bounds."""

    intercepted_binops = frozenset(("*", "**", "+"))

    def __init__(self, limits: TemplateLimits) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation, _Meter]
        )
        self.limits = limits
        self.filters["tojson"] = _tojson
        self.filters = {name: self._measured(call) for name, call in self.filters.items()}
        self.globals |= {
            "raise_exception": _raise_exception,
            "dict": _make_dict,
            "namespace": _PlainNamespace,
        }
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        meter = self.extensions[_Meter.identifier]
        assert isinstance(meter, _Meter)
        return meter.install(tree)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Refuse the likes of `'x'.ljust(10**9)`; a macro may take any number.

        What a method makes is measured, so that none makes it larger and larger.
        """
        is_method = isinstance(obj, BuiltinMethodType)
        for value in (*args, *kwargs.values()) if is_method else ():
            if isinstance(value, int) and abs(value) > self.limits.max_integer:
                raise SecurityError(f"{value} is too large an argument")
        result = super().call(context, obj, *args, **kwargs)
        self.check_length(_length(result))
        return result

    def _measured(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that gives no longer values than a template may make."""

        @wraps(call)  # with the marks by which Jinja knows what to pass
        def measured(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.check_length(_length(result))
            return result

        return measured

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse to make strings and numbers that are too large to be meant."""
        if operator == "+":
            self.check_length(_length(left) + _length(right))
        elif operator == "*":
            self.check_length(max(_length(left) * _factor(right), _factor(left) * _length(right)))
        elif abs(left) > self.limits.max_integer or abs(right) > 64:
            raise SecurityError("the power is too large")
        return super().call_binop(context, operator, left, right)

    def check_length(self, length: int) -> None:
        """Raise TemplateLimitError for a string or a list that is too long."""
        if length > self.limits.max_chars:
            raise TemplateLimitError(f"it made a value of {length} characters")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _factor(value: Any) -> int:
    return value if isinstance(value, int) else 0


class _Generation(Extension):
    """`{% generation %}` marks an answer for training; here it is a plain block."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class _Meter(Extension):
    """Makes each turn of a loop and each macro call look at the clock, and `~` at the length."""

    def install(self, tree: nodes.Template) -> nodes.Template:
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
            node.body.insert(0, nodes.ExprStmt(self._call("_tick"), lineno=node.lineno))
        for concat in list(tree.find_all(nodes.Concat)):
            concat.nodes = [self._call("_join", nodes.List(concat.nodes))]
        return tree.set_environment(self.environment)  # type: ignore[return-value]

    def _call(self, name: str, *args: nodes.Expr) -> nodes.Expr:
        return self.call_method(name, [nodes.ContextReference(), *args])

    def _tick(self, context: Context) -> None:
        context.parent[_BUDGET].tick()

    def _join(self, context: Context, values: list[Any]) -> str:
        texts = [str(value) for value in values]
        assert isinstance(self.environment, _Environment)
        self.environment.check_length(sum(map(len, texts)))
        return "".join(texts)


class _PlainNamespace(Namespace):
    """`namespace()` without names that begin with an underscore, as Python's internals do."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # as in Jinja: `self` may be a name that is set
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict()` as a plain function: the type itself would lend its methods."""
    return dict(*args, **kwargs)


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateRefusal(str(message))


def _clock(now_s: float) -> Callable[[str], str]:
    now = datetime.fromtimestamp(now_s, UTC)
    return lambda pattern: now.strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it reads; Jinja's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
