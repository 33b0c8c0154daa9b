"""Case 25: webhook targets that are down, fail, are slow or lead elsewhere."""

import asyncio
import contextlib
import json
import time

import openai
import pytest

from tests.chaos.client import CHAT, Refused, call, request
from tests.chaos.crowd import question
from tests.chaos.fleet import eventually

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
ASYNC = {"Prefer": "respond-async"}


class Target:
    """An HTTP server that misbehaves by path, and remembers what it got."""

    def __init__(self):
        self.got = []
        self.port = 0
        self._handlers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *unused):
        self._server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def at(self, path):
        return [(headers, body) for got, headers, body in self.got if got == f"/{path}"]

    def _accept(self, reader, writer):
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines) if k}
        body = await reader.readexactly(int(headers["content-length"]))
        path = first.split(" ")[1]
        self.got.append((path, headers, body))
        num_tries = len(self.at(path[1:]))
        if path == "/slow" and num_tries == 1:
            await asyncio.sleep(60)
        status, extra = 200, ""
        if path == "/failing" and num_tries == 1:
            status = 500
        if path == "/leading":
            status, extra = 302, "Location: http://169.254.169.254/latest/meta-data/\r\n"
        writer.write(f"HTTP/1.1 {status} X\r\n{extra}Content-Length: 0\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            await writer.drain()


async def hand_in(fleet, seed, url):
    headers = ASYNC | {"x-webhook-url": url}
    return (await call(fleet.ports[0], "POST", CHAT, question(seed, 5), headers))["id"]


def verified(headers, body):
    """The event, if OpenAI's client accepts the signature."""
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    client.webhooks.verify_signature(body, headers)
    return json.loads(body)


async def text_of(fleet, oracle, job_id, seed):
    job = await call(fleet.ports[0], "GET", f"/v1/jobs/{job_id}?wait=10")
    return job["result"]["choices"][0]["message"]["content"] == oracle.answer(question(seed, 5))


async def test_case_25_webhooks_are_signed_and_tried_until_they_are_taken(start_fleet, oracle):
    fleet = start_fleet(
        apis=2, TRAMONTANE_WEBHOOK_SECRET=SECRET, TRAMONTANE_WEBHOOK_ALLOW_PRIVATE="true"
    )
    async with Target() as down:
        pass  # nobody listens there now
    async with Target() as target:
        paths = ("good", "failing", "leading", "slow")
        ids = {path: await hand_in(fleet, n, target.url(path)) for n, path in enumerate(paths)}
        ids["down"] = await hand_in(fleet, 4, down.url("down"))
        for seed, job_id in enumerate(ids.values()):
            assert await text_of(fleet, oracle, job_id, seed), "results do not wait for webhooks"
        await eventually(lambda: target.at("good") and target.at("slow"), "the first tries")
        async with down:
            await eventually(lambda: len(target.at("failing")) == 2, "the second try", 30)
            await eventually(lambda: down.at("down"), "the receiver that came back hears of it", 30)
        for path, receiver in (("good", target), ("failing", target), ("down", down)):
            for headers, body in receiver.at(path):
                assert verified(headers, body)["data"]["id"] == ids[path]
        first, second = target.at("failing")
        assert first[0]["webhook-id"] == second[0]["webhook-id"]
        assert first[1] == second[1]
        assert len(target.at("good")) == 1


async def test_case_25_private_addresses_are_refused(start_fleet):
    fleet = start_fleet(TRAMONTANE_WEBHOOK_SECRET=SECRET)
    began_s = time.monotonic()
    for url in (
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "ftp://example.com/",
    ):
        with pytest.raises(Refused) as caught:
            await hand_in(fleet, 1, url)
        assert caught.value.status == 400, url
    assert time.monotonic() - began_s < 10
    answer = await request(fleet.ports[0], "GET", "/health")
    with contextlib.closing(answer):
        assert answer.status == 200
