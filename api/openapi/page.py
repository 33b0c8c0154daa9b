"""The OpenAPI document as one HTML page without script or anything to load. Pure."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font:13px ui-monospace,monospace}
details{border:1px solid #8886;border-radius:6px;margin:.4rem 0;padding:.3rem .8rem}
summary{cursor:pointer}
summary b{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse;width:100%;margin:.4rem 0}
td,th{text-align:left;vertical-align:top;border-top:1px solid #8884;padding:.2rem .6rem .2rem 0}
h2{margin-top:2rem;text-transform:capitalize}
"""


def page(document: Mapping[str, Any]) -> bytes:
    """The page."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p><p><a href=openapi.json>openapi.json</a></p>",
        *_operations(document["paths"]),
        "<h2>Objects</h2>",
        *(_object(name, schema) for name, schema in document["components"]["schemas"].items()),
    ]
    return "\n".join(parts).encode()


def _operations(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    tag = ""
    for path, methods in paths.items():
        for method, operation in methods.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            yield _operation(path, method, operation)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = [
        _row(f"{p['name']} ({p['in']})", _type(p["schema"]), p.get("description", ""))
        for p in operation["parameters"]
    ]
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        rows.append(_row("body", _type(body["schema"]), media))
    for status, answer in operation["responses"].items():
        kinds = [f"{media}: {_type(c['schema'])}" for media, c in answer.get("content", {}).items()]
        rows.append(_row(status, "<br>".join(kinds), answer["description"]))
    head = f"<b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
    name = escape(operation["operationId"])
    return f"<details id={name}><summary>{head}</summary><table>{''.join(rows)}</table></details>"


def _object(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        _row(field, _type(kind), "required" if field in required else _default(kind))
        for field, kind in schema.get("properties", {}).items()
    ]
    body = f"<table>{''.join(rows)}</table>" if rows else _type(schema)
    what = escape(schema.get("description", ""))
    return (
        f"<details id='schema-{escape(name)}'><summary><code>{escape(name)}</code> {what}</summary>"
        f"{body}</details>"
    )


def _row(name: str, kind: str, what: str) -> str:
    return f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{escape(what)}"


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else f"default {json.dumps(default)}"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name.rpartition('.')[2]}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(kind) for kind in schema["anyOf"] if kind != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema)}"
    return f"{escape(schema.get('type', 'anything'))}{_bounds(schema)}"


_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "like",
}


def _bounds(schema: Mapping[str, Any]) -> str:
    said = [f"{sign} {escape(str(schema[key]))}" for key, sign in _BOUNDS.items() if key in schema]
    return f" ({', '.join(said)})" if said else ""
