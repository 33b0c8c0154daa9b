"""The OpenAPI 3.1 document: the table of operations and the Structs they name. Knows no server.

https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from api.errors import FINAL, KINDS, RETRY_AFTER_S, ErrorResponse
from api.openapi.operation import EVENTS, JSON, Operation, Reply, Schema
from api.openapi.parameters import HEADERS, PARAMETERS
from api.schema.anthropic_object import MessageObject
from api.schema.refused import RefusedFields
from api.schema.response import ChatCompletion, TextCompletion
from api.schema.response_object import ResponseObject
from api.schema.responses import REFUSED, ResponsesRequest
from api.schema.vectors import EmbeddingList, RankedList, ScoreList

TITLE = "Tramontane"
VERSION = "0.1.0"
_ABOUT = (
    "OpenAI's API, and jobs that outlive every process. Parameters of OpenAI's that are not listed "
    "here are refused with their name, or ignored if nobody knows them."
)
_REF = "#/components/schemas/{name}"
# Any endpoint's answer: msgspec calls it by the name of the class that all Structs have.
_ANSWER = "Struct"
_ANSWERS = (
    *(ChatCompletion, TextCompletion, ResponseObject, MessageObject),
    *(EmbeddingList, ScoreList, RankedList),
)
_IN_PATH = re.compile(r"\{(\w+)(?::\w+)?\}")
_NOT_OF_JSON: dict[Any, Schema] = {
    str: {"type": "string"},
    bytes: {"type": "string", "format": "binary"},
}
# Of a stream each event alone; its data is JSON or `[DONE]`.
_EVENT: Schema = {
    "type": "object",
    "properties": dict.fromkeys(("id", "event", "data"), _NOT_OF_JSON[str]),
    "required": ["data"],
}
_PLAIN: Schema = {"schema": {"type": "string"}}
# What the HTTP server answers before the app hears of the request.
_BEFORE: Schema = {
    "414": {"description": "The address is too long.", "content": {"text/plain": _PLAIN}},
    "431": {"description": "A header is too large.", "content": {"text/plain": _PLAIN}},
}
_KEYS: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of these operations."""
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _IN_PATH.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": _KEYS},
    }


class _Schemas:
    """The JSON Schemas of all types that the operations name."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        types = list(dict.fromkeys([*_types(operations), ErrorResponse, *_ANSWERS]))
        refs, self.components = msgspec.json.schema_components(types, ref_template=_REF)
        self._refs = dict(zip(types, refs, strict=True))
        self.components[_ANSWER] = {
            "title": "Answer",
            "description": "The answer of the endpoint that the job came in by.",
            "anyOf": [self.of(kind) for kind in _ANSWERS],
        }
        for kind in types:
            self._hide_refused(kind)

    def of(self, kind: Any) -> Schema:
        """The schema of a type, a reference if it is a Struct."""
        return _NOT_OF_JSON.get(kind) or self._refs[kind]

    def form(self, kind: Any) -> Schema:
        """The schema of a form with a file beside the fields of a Struct, nested ones as `a[b]`."""
        fields = self._resolved(self.of(kind))
        properties: Schema = {"file": _NOT_OF_JSON[bytes]}
        for name, schema in fields["properties"].items():
            nested = next((s for s in schema.get("anyOf", ()) if "$ref" in s), None)
            inner = self._resolved(nested)["properties"] if nested else {}
            properties |= {f"{name}[{key}]": value for key, value in inner.items()}
            if nested is None:
                properties[name] = schema
        return {
            "type": "object",
            "properties": properties,
            "required": ["file", *fields["required"]],
        }

    def _resolved(self, ref: Schema) -> Schema:
        schema: Schema = self.components[ref["$ref"].rpartition("/")[2]]
        return schema

    def _hide_refused(self, kind: Any) -> None:
        """A field that we know only to refuse it is no offer."""
        if not (isinstance(kind, type) and issubclass(kind, RefusedFields)):
            return
        hidden = set(RefusedFields.__struct_fields__) - kind.supported
        if issubclass(kind, ResponsesRequest):
            hidden.update(REFUSED)
        properties = self._resolved(self.of(kind))["properties"]
        for name in hidden & properties.keys():
            del properties[name]


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    for operation in operations:
        bodies = (operation.body, operation.error, *(reply.body for reply in operation.replies))
        yield from (body for body in bodies if body is not None and body not in _NOT_OF_JSON)


def _operation(operation: Operation, schemas: _Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [*_in_path(operation.path), *(_parameter(n) for n in operation.params)],
        "responses": _responses(operation, schemas),
        "security": [] if operation.is_public else [{name: []} for name in _KEYS],
    }
    if operation.body is not None:
        is_form = operation.media != JSON
        schema = schemas.form(operation.body) if is_form else schemas.of(operation.body)
        described["requestBody"] = {
            "required": True,
            "content": {operation.media: {"schema": schema}},
        }
    return described


def _in_path(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _IN_PATH.findall(path)
    ]


def _parameter(name: str) -> Schema:
    parameter = PARAMETERS[name]
    return {
        "name": name,
        "in": parameter.where,
        "schema": parameter.schema,
        "description": parameter.what,
    }


def _responses(operation: Operation, schemas: _Schemas) -> Schema:
    responses = {str(reply.status): _reply(reply, schemas) for reply in operation.replies}
    if operation.streams:
        ok = responses.setdefault("200", {"description": "Server-sent events.", "content": {}})
        ok["content"][EVENTS] = {"schema": {**_EVENT, "description": operation.streams}}
        ok.setdefault("headers", {}).update(_headers(["x-request-id", "x-job-id"]))
    for status, codes in sorted(_by_status(operation.errors).items()):
        responses.setdefault(str(status), _error(codes, schemas.of(operation.error)))
    return responses | _BEFORE


def _reply(reply: Reply, schemas: _Schemas) -> Schema:
    described: Schema = {
        "description": reply.what,
        "headers": _headers(["x-request-id", *reply.headers]),
    }
    if reply.body is not None:
        described["content"] = {reply.media: {"schema": schemas.of(reply.body)}}
    return described


def _by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in sorted(codes):
        found.setdefault(KINDS[code].status, []).append(code)
    return found


def _error(codes: Sequence[str], body: Schema) -> Schema:
    names = ["x-request-id"]
    if RETRY_AFTER_S.keys() & set(codes):
        names.append("retry-after")
    if FINAL & set(codes):
        names.append("x-should-retry")
    if "invalid_api_key" in codes:
        names.append("www-authenticate")
    return {
        "description": "`error.code`: " + ", ".join(f"`{code}`" for code in codes) + ".",
        "headers": _headers(names),
        "content": {JSON: {"schema": body}},
    }


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"schema": HEADERS[name][0], "description": HEADERS[name][1]} for name in names}
