"""The API's description of itself: complete, valid, and what a browser shows of it."""

import html.parser
import json
from typing import Any

import falcon.inspect
import pytest

from api.app import create_app
from api.auth import PUBLIC_PATHS
from api.config import ApiConfig
from api.errors import KINDS
from api.openapi.document import openapi
from api.openapi.operations import OPERATIONS
from api.openapi.page import page
from api.wishes import PREFER

# Of no operation in particular: of what is none, and of a batch's lines.
ELSEWHERE = {"method_not_allowed"}
VOID = {"meta", "link", "br", "td", "tr"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi(OPERATIONS)


def references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def schema_of(document, name):
    return document["components"]["schemas"][name]


def test_the_table_names_every_route_and_method_of_the_app_and_no_other():
    app = create_app(ApiConfig(redis_url="unix:///nowhere"))
    routes = falcon.inspect.inspect_routes(app._falcon)
    real = {(m.method, r.path) for r in routes for m in r.methods if not m.internal}
    assert {(o.method, o.path) for o in OPERATIONS} == real
    assert len(OPERATIONS) == len(real)


def test_what_needs_no_key_is_what_the_gate_lets_through():
    assert {o.path for o in OPERATIONS if o.is_public} == PUBLIC_PATHS
    for operation in OPERATIONS:
        assert operation.is_public == ("invalid_api_key" not in operation.errors)


def test_every_code_of_the_table_of_errors_is_some_operations(document):
    named = {code for operation in OPERATIONS for code in operation.errors}
    assert named == set(KINDS) - ELSEWHERE
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert "`queue_full`" in chat["503"]["description"]
    assert {"retry-after", "x-request-id"} <= chat["503"]["headers"].keys()
    assert "x-should-retry" in chat["409"]["headers"]


def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own(document):
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in found)
    methods = [op for item in document["paths"].values() for op in item.values()]
    assert len({op["operationId"] for op in methods}) == len(methods) == len(OPERATIONS)


def test_fields_that_are_refused_are_not_offered_and_the_others_have_their_bounds(document):
    chat = schema_of(document, "ChatRequest")["properties"]
    text = schema_of(document, "CompletionRequest")["properties"]
    response = schema_of(document, "ResponsesRequest")["properties"]
    assert {"tools", "messages", "grammar"} <= chat.keys()
    assert not {"echo", "audio", "adapter"} & chat.keys()
    assert "echo" in text
    assert not {"suffix", "tools"} & text.keys()
    assert not {"conversation", "n", "max_tokens"} & response.keys()
    assert chat["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}


def test_an_upload_is_a_form_with_a_file_and_the_fields_beside_it(document):
    body = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
    form = body["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {
        "file",
        "purpose",
        "expires_after[seconds]",
        "expires_after[anchor]",
    }
    assert form["required"] == ["file", "purpose"]


def test_what_can_be_streamed_says_so(document):
    for operation in OPERATIONS:
        path = operation.path.replace(":path", "")
        ok = document["paths"][path][operation.method.lower()]["responses"].get("200", {})
        assert ("text/event-stream" in ok.get("content", {})) == bool(operation.streams)


def test_what_may_come_later_says_so_and_in_which_forms(document):
    for operation in OPERATIONS:
        if PREFER in operation.params:
            assert 202 in {reply.status for reply in operation.replies}, operation.path
    forms = {ref["$ref"].rpartition("/")[2] for ref in schema_of(document, "Struct")["anyOf"]}
    texts = {"ChatCompletion", "TextCompletion", "ResponseObject", "MessageObject"}
    assert forms == texts | {"EmbeddingList", "ScoreList", "RankedList"}


class Reader(html.parser.HTMLParser):
    """Collects the ids, the links and the tags that a page leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids |= {values["id"]} if "id" in values else set()
        self.links |= {values[name] for name in ("href", "src") if name in values}
        if tag not in VOID | {"html"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_its_links_lead_somewhere(document):
    text = page(document).decode()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not {"script", "img", "iframe"} & reader.tags
    assert reader.links - {"openapi.json"} <= {f"#{name}" for name in reader.ids}
    assert {operation.id for operation in OPERATIONS} <= reader.ids
    for operation in OPERATIONS:
        assert operation.summary in text


def test_the_page_escapes_what_it_is_given(document):
    evil = "<script>alert(1)</script>"
    text = page({**document, "info": {"title": evil, "version": evil, "description": evil}})
    assert b"<script" not in text


def test_both_are_served(api, document):
    reply = api.get("/openapi.json")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json == json.loads(json.dumps(document))
    shown = api.get("/docs")
    assert shown.body == page(document)
    assert shown.headers["content-type"].startswith("text/html")
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")


def test_what_the_http_server_itself_refuses_is_documented_too(api, document):
    responses = document["paths"]["/v1/files"]["get"]["responses"]
    replies = [
        api.get("/v1/files?after=" + "x" * 9000),
        api.get("/v1/files", last_event_id="1" * 20_000),
    ]
    assert [reply.status for reply in replies] == [414, 431]
    for reply in replies:
        kind = reply.headers["content-type"].partition(";")[0]
        assert kind in responses[str(reply.status)]["content"]
