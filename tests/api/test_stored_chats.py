"""Chat completions with `store`: read, listed and deleted with the real openai client."""

import openai
import pytest


@pytest.fixture
def client(app):
    return app.client


async def ask(client, prompt="echo hello there", **options):
    messages = [{"role": "user", "content": prompt}]
    options = {"store": True, **options}
    return await client.chat.completions.create(model="x", messages=messages, **options)


async def ids_of(client, **options):
    return [one.id async for one in client.chat.completions.list(**options)]


async def test_a_stored_completion_is_read_again_with_its_metadata(client):
    made = await ask(client, metadata={"topic": "wind"})
    found = await client.chat.completions.retrieve(made.id)
    assert found.choices == made.choices
    assert (found.usage, found.system_fingerprint) == (made.usage, made.system_fingerprint)
    assert found.metadata == {"topic": "wind"}


async def test_a_streamed_one_is_stored_whole(client):
    stream = await ask(client, stream=True)
    chunks = [chunk async for chunk in stream]
    found = await client.chat.completions.retrieve(chunks[0].id)
    assert found.choices[0].message.content == "hello there "


async def test_what_was_not_to_be_stored_is_not(client):
    made = await ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.retrieve(made.id)
    assert await ids_of(client) == []


async def test_they_are_listed_by_pages_in_both_orders(client):
    made = [(await ask(client, f"echo {i}")).id for i in range(3)]
    assert await ids_of(client, limit=2) == made
    assert await ids_of(client, limit=1, order="desc") == made[::-1]
    page = await client.chat.completions.list(after=made[0], limit=1)
    assert ([one.id for one in page.data], page.has_more) == ([made[1]], True)


async def test_a_list_can_be_of_some_metadata_or_a_model(client):
    await ask(client)
    made = await ask(client, metadata={"topic": "wind", "lang": "fr"})
    assert await ids_of(client, metadata={"topic": "wind"}) == [made.id]
    assert await ids_of(client, metadata={"topic": "rain"}) == []
    assert len(await ids_of(client, model=made.model)) == 2
    assert await ids_of(client, model="other") == []


async def test_a_failure_is_no_completion(client):
    with pytest.raises(openai.BadRequestError):
        await ask(client, "fail context_length_exceeded")
    assert await ids_of(client) == []


async def test_a_deleted_one_is_gone(client):
    made = await ask(client)
    deleted = await client.chat.completions.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    assert await ids_of(client) == []
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.delete(made.id)


async def test_a_wrong_after_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.list(after="nobody")
    assert caught.value.param == "after"


async def test_it_is_kept_as_long_as_stored_things_are(app, client):
    made = await ask(client)
    job = (await app.broker.view(made.id)).job
    assert job.result_ttl_s == app.config.store_ttl_s
    assert 0 < await app.redis.ttl("stored:") <= 2 * (app.config.store_ttl_s + app.config.job_ttl_s)


async def test_those_of_another_tenant_are_not_there(app, client):
    made = await ask(client)
    store = app.app._falcon._router.find("/v1/chat/completions/x")[0]._store
    with pytest.raises(Exception, match="no stored completion"):
        await store.find(made.id, "somebody")
