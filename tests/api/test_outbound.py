"""Requests to URLs that clients name reach the internet, and nothing behind our walls."""

import asyncio
import ssl
import subprocess
import time

import httpcore2
import pytest

from api.hooks.outbound import Outbound, Undelivered
from api.hooks.url import BadUrl, parse_url
from tests.api.hook_target import Target

PUBLIC = "93.184.216.34"
BODY = b'{"a":1}'


@pytest.fixture
async def start_target():
    targets = []

    async def start(tls=None):
        targets.append(await Target(tls).start())
        return targets[-1]

    yield start
    for target in targets:
        await target.stop()


@pytest.fixture
async def target(start_target):
    return await start_target()


class Names:
    """A resolver with an answer for each look-up; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        return self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)


class Internet(httpcore2.AsyncNetworkBackend):
    """Every address of it is the target's port; `dead` ones do not answer."""

    def __init__(self, port, dead=()):
        self.port = port
        self.dead = dead
        self.reached = []

    async def connect_tcp(
        self,
        host,
        port,
        timeout=None,  # noqa: ASYNC109 - httpcore's interface
        local_address=None,
        socket_options=None,
    ):
        self.reached.append(host)
        if host in self.dead:
            raise httpcore2.ConnectError("no route")
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)


async def test_a_request_arrives_whole(target):
    outbound = Outbound(allow_private=True)
    assert await outbound.post(target.url, {"x-one": "1"}, BODY) == 200
    (received,) = target.received
    assert (received.path, received.body) == ("/hook?a=1", BODY)
    assert received.headers["host"] == f"127.0.0.1:{target.port}"
    assert received.headers["x-one"] == "1"


async def test_the_status_is_reported_and_a_redirect_is_not_followed(target):
    target.answers = [
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        500,
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 Done\r\n\r\n",
    ]
    outbound = Outbound(allow_private=True)
    statuses = [await outbound.post(target.url, {}, BODY) for _ in range(3)]
    assert statuses == [302, 500, 204]
    assert target.num_connections == 3


async def test_a_proxy_of_the_environment_is_not_used(target, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await Outbound(allow_private=True).post(target.url, {}, BODY) == 200


async def test_a_host_that_does_not_answer_costs_the_timeout(target):
    target.answers = [None]
    started_s = time.monotonic()
    with pytest.raises(Undelivered, match=r"no answer within 0\.3 s"):
        await Outbound(allow_private=True, timeout_s=0.3).post(target.url, {}, BODY)
    assert time.monotonic() - started_s < 5


async def test_an_answer_that_drips_for_ever_costs_the_timeout(target):
    async def drip(writer, answer):
        while True:
            writer.write(b"HTTP/1.1 103 Early\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    target._answer = drip
    with pytest.raises(Undelivered, match="no answer within"):
        await Outbound(allow_private=True, timeout_s=0.3).post(target.url, {}, BODY)


async def test_a_status_stands_however_long_the_answer_behind_it_is(target):
    num_sent = 0

    async def flood(writer, answer):
        nonlocal num_sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            num_sent += 65536

    target._answer = flood
    outbound = Outbound(allow_private=True)
    async with asyncio.timeout(10):
        assert await outbound.post(target.url, {}, BODY) == 200
    await asyncio.sleep(0)
    assert num_sent < 20 << 20  # what the sockets' buffers hold, at most


async def test_a_status_stands_when_the_connection_breaks_behind_it(target):
    target.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc"]
    assert await Outbound(allow_private=True).post(target.url, {}, BODY) == 200


@pytest.mark.parametrize("answer", [b"", b"220 smtp ready\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_what_is_no_http_is_a_failure(target, answer):
    target.answers = [answer]
    with pytest.raises(Undelivered):
        await Outbound(allow_private=True).post(target.url, {}, BODY)


async def test_a_closed_port_is_a_failure_with_its_reason(target):
    await target.stop()
    with pytest.raises(Undelivered, match=r"^Connection refused$"):
        await Outbound(allow_private=True).post(target.url, {}, BODY)


async def test_a_name_that_nobody_knows_is_a_failure():
    with pytest.raises(Undelivered, match=r"nowhere\.invalid cannot be resolved"):
        await Outbound().post("http://nowhere.invalid/", {}, BODY)


async def test_a_label_that_is_too_long_is_a_failure():
    with pytest.raises(Undelivered, match="cannot be resolved"):
        await Outbound().post(f"http://{'a' * 70}.invalid/", {}, BODY)


async def test_a_name_of_this_machine_is_refused_by_its_address(target):
    """The system's resolver, which takes forms of addresses that no parser of ours knows."""
    outbound = Outbound(resolve=None)
    with pytest.raises(BadUrl, match="private"):
        await outbound.post(f"http://localhost:{target.port}/", {}, BODY)
    with pytest.raises(Undelivered, match="private address"):
        await outbound._guard.connect_tcp("127.1", target.port)
    assert target.num_connections == 0


@pytest.mark.parametrize("addresses", [["10.0.0.1"], [PUBLIC, "::1"], ["169.254.169.254", PUBLIC]])
async def test_one_private_address_among_a_hosts_refuses_it(target, addresses):
    internet = Internet(target.port)
    outbound = Outbound(resolve=Names(addresses), network=internet)
    with pytest.raises(Undelivered, match=r"^hooks\.example has a private address$"):
        await outbound.post("http://hooks.example/", {}, BODY)
    assert internet.reached == []


async def test_a_name_that_changes_its_mind_is_asked_once_per_request(target):
    names = Names([PUBLIC], ["127.0.0.1"])
    internet = Internet(target.port)
    outbound = Outbound(resolve=names, network=internet)
    assert await outbound.post("http://hooks.example:8080/x", {}, BODY) == 200
    assert names.asked == ["hooks.example"]
    assert internet.reached == [PUBLIC]
    assert target.received[0].headers["host"] == "hooks.example:8080"
    with pytest.raises(Undelivered, match="private"):
        await outbound.post("http://hooks.example:8080/x", {}, BODY)
    assert internet.reached == [PUBLIC]


async def test_the_next_address_is_tried_when_one_is_dead(target):
    internet = Internet(target.port, dead=("2606:4700::1",))
    outbound = Outbound(resolve=Names(["2606:4700::1", PUBLIC]), network=internet)
    assert await outbound.post("http://hooks.example/", {}, BODY) == 200
    assert internet.reached == ["2606:4700::1", PUBLIC]


async def test_a_host_without_addresses_is_a_failure(target):
    with pytest.raises(Undelivered):
        await Outbound(resolve=Names([])).post("http://hooks.example/", {}, BODY)


def certificate(directory, name):
    """A certificate that signs itself, as a server's context and a client's."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-keyout", str(key), "-out", str(cert)),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=cert)


async def test_tls_is_made_with_the_name_at_the_address_that_was_checked(start_target, tmp_path):
    server, client = certificate(tmp_path, "hooks.example")
    asked = []
    server.sni_callback = lambda socket, name, context: asked.append(name)
    target = await start_target(server)
    internet = Internet(target.port)
    outbound = Outbound(resolve=Names([PUBLIC]), network=internet, tls=client)
    assert await outbound.post("https://hooks.example/x", {}, BODY) == 200
    assert (asked, internet.reached) == (["hooks.example"], [PUBLIC])
    assert target.received[0].headers["host"] == "hooks.example"
    with pytest.raises(Undelivered, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
        await outbound.post("https://other.example/x", {}, BODY)
    with pytest.raises(Undelivered, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
        await Outbound(resolve=Names([PUBLIC]), network=internet).post(
            "https://hooks.example/x", {}, BODY
        )
    assert len(target.received) == 1


BAD = {
    "ftp://example.com/": "must begin with",
    "example.com/hook": "must begin with",
    "//example.com/hook": "must begin with",
    "http:///hook": "must begin with",
    "https://": "must begin with",
    "http://user@example.com/": "user name",
    "http://user:pass@example.com/": "user name",
    "http://example.com:99999/": "not a URL",
    "http://example.com:x/": "not a URL",
    "http://example.com:0/": "port",
    "http://[::1/": "not a URL",
    "http://example.com/a b": "characters",
    "http://example.com/\r\nx: y": "characters",
    "http://example.com/\t": "characters",
    "http://example.com\\@127.0.0.1/": "characters",
    "http://ex\u00e4mple.com/": "characters",
    "http://example.com/" + "a" * 2048: "longer",
    "http://127.0.0.1/": "private",
    "http://127.0.0.1:8000/": "private",
    "http://169.254.169.254/latest/meta-data": "private",
    "http://[::1]/": "private",
    "http://[::ffff:10.0.0.1]/": "private",
    "http://localhost/": "private",
    "http://LOCALHOST./": "private",
    "http://a.localhost:80/": "private",
    "http://127.1/": "usual form",
    "http://2130706433/": "usual form",
    "http://0x7f000001/": "usual form",
    "http://0x7f.0.0.0x1/": "usual form",
    "http://127.0.0.1./": "usual form",
}


@pytest.mark.parametrize("url", BAD, ids=lambda url: ascii(url)[:40])
def test_a_url_that_will_never_do_is_refused_with_a_reason(url):
    with pytest.raises(BadUrl, match=BAD[url]):
        parse_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/", "http://10.0.0.1:1/"]
)
def test_private_urls_pass_where_they_are_allowed(url):
    assert parse_url(url, allow_private=True).port == 1


def test_a_url_is_taken_apart():
    parsed = parse_url("HTTPS://Hooks.Example/a/b?c=d#e", allow_private=False)
    assert parsed == ("https", "hooks.example", 443, "Hooks.Example", "/a/b?c=d")
    assert parse_url("http://8.8.8.8:81", allow_private=False)[1:] == (
        *("8.8.8.8", 81, "8.8.8.8:81", "/"),
    )
