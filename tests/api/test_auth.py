"""Keys, tenants and rights: the gate by itself, and before the real app."""

import asyncio
import hashlib
import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from api.app import create_app
from api.auth import ANONYMOUS, PUBLIC_PATHS, Gate, Key, Keys, Tenant, check_rights, digest_of
from api.config import ApiConfig
from api.errors import ApiError

GOOD, ADMIN, OTHER = "sk-tr-good-0123456789", "sk-tr-admin-0123456789", "sk-tr-other-0123456789"
ACME = Tenant("acme", "interactive", 60, 1000, 5)
ROOT = Tenant("root", is_admin=True)


def keys_of(**tenants: Tenant) -> Keys:
    return Keys([Key(digest_of(key.encode()), tenant) for key, tenant in tenants.items()])


def gate() -> Gate:
    keys = keys_of(**{GOOD: ACME, ADMIN: ROOT})
    return Gate(lambda: keys)


def header_of(**headers: str):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return names.get


def refusal(**headers: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        gate().admit("/v1/models", header_of(**headers))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    return caught.value


def test_without_keys_everybody_may_do_everything():
    tenant = Gate(lambda: None).admit("/v1/models", header_of(authorization="Bearer none"))
    assert tenant == Tenant(name="", is_admin=True) == ANONYMOUS
    check_rights(tenant, "/admin/dead")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {GOOD}"},
        {"authorization": f"bearer   {GOOD} "},
        {"x_api_key": GOOD},
        {"api_key": GOOD},
        {"authorization": "Basic dTpw", "api_key": GOOD},
    ],
    ids=["bearer", "bearer, written loosely", "x-api-key", "api-key", "beside basic"],
)
def test_a_key_is_found_where_clients_send_it(headers):
    assert gate().admit("/v1/models", header_of(**headers)) == ACME


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": GOOD},
        {"x_api_key": ""},
    ],
    ids=["nothing", "empty", "no token", "empty token", "no scheme", "empty x-api-key"],
)
def test_a_request_without_a_key_is_told_how_to_send_one(headers):
    assert "You didn't provide an API key" in refusal(**headers).message


def test_a_bearer_token_wins_over_the_other_headers():
    assert "Incorrect" in refusal(authorization="Bearer wrong", x_api_key=GOOD).message


def test_a_wrong_key_is_shown_by_its_end_alone():
    message = refusal(authorization="Bearer sk-proj-abcdefghijkl").message
    assert message == "Incorrect API key provided: ***ijkl."


@pytest.mark.parametrize("key", ["short", "elevenchars", "sk-tr-0123456789\xff\x00\x01\x02"])
def test_of_a_key_that_is_short_or_strange_nothing_is_shown(key):
    assert refusal(authorization=f"Bearer {key}").message == "Incorrect API key provided."


def test_a_key_need_not_be_ascii():
    keys = keys_of(schlüssel=ACME)
    sent = "schlüssel".encode().decode("latin-1")  # as ASGI servers hand headers on
    assert Gate(lambda: keys).admit("/v1/models", header_of(x_api_key=sent)) == ACME


def test_the_hash_of_a_key_is_no_key():
    sent = "sha256:" + hashlib.sha256(GOOD.encode()).hexdigest()
    assert "Incorrect" in refusal(authorization=f"Bearer {sent}").message


def test_every_key_is_compared_whichever_fits(monkeypatch):
    compared = []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return known == digest

    monkeypatch.setattr("api.auth.hmac.compare_digest", compare)
    keys = keys_of(a=ACME, b=ROOT, c=ACME)
    for key in (b"a", b"c", b"wrong"):
        compared.clear()
        keys.find(key)
        assert len(set(compared)) == 3


def test_what_is_public_needs_no_key_and_gives_no_rights():
    for path in PUBLIC_PATHS:
        assert gate().admit(path, header_of()) == Tenant()
        assert gate().admit(path, header_of(x_api_key=ADMIN)).is_admin is False


@pytest.mark.parametrize("path", ["/v1", "/v1/models", "/healthy", "/ready/x", "//", "/admin/dead"])
def test_everything_else_needs_a_key(path):
    with pytest.raises(ApiError, match="API key"):
        gate().admit(path, header_of())


@pytest.mark.parametrize("template", ["/admin", "/admin/dead", "/admin/dead/{job_id}/retry"])
def test_admin_routes_are_for_admins(template):
    check_rights(ROOT, template)
    with pytest.raises(ApiError) as caught:
        check_rights(ACME, template)
    assert (caught.value.status, caught.value.code) == (403, "permission_denied")


@pytest.mark.parametrize("template", ["", "/", "/administrator", "/v1/admin/x", "/v1/models"])
def test_other_routes_are_for_all(template):
    check_rights(ACME, template)


def test_a_tenant_is_found_by_name_for_work_that_goes_on_without_its_request():
    assert gate().tenant("acme") == ACME
    assert gate().tenant("gone") == Tenant("gone")
    assert Gate(lambda: None).tenant("acme") == Tenant("acme")


def test_a_tenant_of_several_keys_is_as_its_first_key():
    batch = Tenant("acme", "batch")
    assert keys_of(a=ACME, b=batch).tenant("acme") == ACME


class Thing:
    """An admin route that says who came."""

    async def on_get(self, req, resp):
        resp.media = {"tenant": req.context.tenant.name}


@pytest.fixture
def app():
    keys = f"{GOOD},admin:{ADMIN}"
    app = create_app(ApiConfig(redis_url="unix:///nowhere", api_keys=keys))
    app._falcon.add_route("/admin/thing", Thing())
    return app


@pytest.fixture
def http(app):
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://test", timeout=20
    )


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def test_an_admin_route_answers_an_admin_and_403_to_others(http):
    async with http:
        reply = await http.get("/admin/thing", headers=bearer(ADMIN))
        assert (reply.status_code, reply.json()) == (200, {"tenant": "default"})
        reply = await http.get("/admin/thing", headers=bearer(GOOD))
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "permission_denied"
        assert (await http.get("/admin/thing")).status_code == 401


@pytest.mark.parametrize("path", ["//admin/thing", "/admin/thing/", "/%61dmin/thing"])
async def test_no_spelling_of_a_path_goes_around_the_rights(app, path):
    """A router takes several paths for one route; whatever it takes is checked."""
    assert await status_of(app, path, bearer(GOOD)) == 403
    assert await status_of(app, path, bearer(ADMIN)) == 200


async def status_of(app, path, headers):
    """The status for exactly this path, which clients would tidy up."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "path": path.replace("%61", "a"),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


async def test_openai_s_client_raises_its_own_exceptions(http):
    async def ask(key, path="/models"):
        client = openai.AsyncOpenAI(
            base_url="http://test/v1" if path == "/models" else "http://test",
            api_key=key,
            max_retries=0,
            http_client=http,
        )
        return await client.get(path, cast_to=object)

    async with http:
        with pytest.raises(openai.AuthenticationError) as wrong:
            await ask("sk-wrong-0123456789")
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await ask(GOOD, "/admin/thing")
    assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
    assert denied.value.code == "permission_denied"


async def test_a_body_is_not_awaited_before_the_refusal(app):
    """A client that never sends its body gets its 401 all the same."""
    answered = asyncio.Event()

    async def receive():
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    scope = {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-length", b"1000")],
    }
    await asyncio.wait_for(app(scope, receive, send), 20)


@pytest.fixture(scope="module")
def locked(api_redis, directory, start_api, fake_worker, wait):
    server = start_api(api_redis.url, directory, api_keys=f"{GOOD},admin:{ADMIN}")
    wait(lambda: server.get("/ready").status == 200, "the fake worker is known")
    yield server
    server.kill()
    assert GOOD not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_server_with_keys_serves_those_who_have_one(locked):
    with openai.OpenAI(base_url=locked.url + "/v1", api_key=GOOD, max_retries=0) as client:
        answer = client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "echo hi"}]
        )
    assert answer.choices[0].message.content == "hi "


def test_a_server_with_keys_refuses_those_who_have_none(locked):
    reply = locked.get("/v1/models")
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.headers["x-request-id"].startswith("req_")
    error = reply.json["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "invalid_api_key",
        None,
    )
    client = openai.OpenAI(base_url=locked.url + "/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_probes_need_no_key(locked):
    for path in PUBLIC_PATHS:
        assert locked.get(path).status == 200
    ready = locked.get("/ready").body.decode()
    assert "tenant" not in ready


def test_a_large_body_behind_a_401_leaves_the_connection_in_order(locked):
    """The body is swallowed, not taken for the next request."""
    connection = locked.connect()
    body = json.dumps({"model": "x", "messages": "y" * 3_000_000})
    connection.request("POST", "/v1/chat/completions", body)
    reply = connection.getresponse()
    assert (reply.status, b"API key" in reply.read()) == (401, True)
    connection.request("GET", "/v1/models", headers=bearer(GOOD))
    assert connection.getresponse().status == 200
    connection.close()


def test_a_new_key_in_the_file_is_good_without_a_restart(
    api_redis, directory, start_api, fake_worker, wait
):
    path = directory / "Keys.toml"

    def write(*keys: str) -> None:
        hashes = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        path.write_text("".join(f'[[keys]]\ntenant = "a"\nhash = "sha256:{h}"\n' for h in hashes))

    def status(key: str) -> Any:
        return server.get("/v1/models", **bearer(key)).status

    write(GOOD)
    server = start_api(api_redis.url, directory, api_keys_file=str(path))
    try:
        assert (status(GOOD), status(OTHER)) == (200, 401)
        write(GOOD, OTHER)
        wait(lambda: status(OTHER) == 200, "the new key is known")
        write(OTHER)
        wait(lambda: status(GOOD) == 401, "the old key is revoked")
        path.write_text("[[keys]")
        sentence = "the API keys stay as they were"
        wait(lambda: status(OTHER) != 200 or sentence in server.log.read_text(), "it is logged")
        assert status(OTHER) == 200
    finally:
        server.kill()


async def test_anthropic_s_client_is_known_by_x_api_key_and_refused_in_its_form(http):
    async def ask(key):
        client = anthropic.AsyncAnthropic(
            base_url="http://test", api_key=key, max_retries=0, http_client=http
        )
        turn: anthropic.types.MessageParam = {"role": "user", "content": "hi"}
        return await client.messages.create(model="m", max_tokens=1, messages=[turn])

    async with http:
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            await ask("sk-wrong-0123456789")
        with pytest.raises(anthropic.InternalServerError, match="queue cannot be reached"):
            await ask(GOOD)
