"""Jobs of vectors through Redis and a whole worker: to the end, after crashes, beside others."""

import pytest

from engine.errors import InvalidInput
from engine.messages import EngineInfo
from tests.scripted_engine import VECTOR_SIZES, vector_of
from tests.workers.test_vector_run import vectors_of
from tests.workers.wire import check_log, make_job
from workers import contract
from workers.contract import Done, Failed, Fence, Started, Vectors, encode
from workers.inputs import InputTooLong, inputs_of

EIGHT = VECTOR_SIZES["embed"]


def embedding(count=6, **changes):
    prompts = [[5, 6, 7 + i] for i in range(count)]
    return make_job(**{"kind": "embedding", "prompts": prompts, **changes})


def scripted(job):
    return [vector_of(prompt, [], EIGHT) for prompt in job.prompts]


async def test_every_input_gets_its_vector(local_worker, wire):
    local_worker(task="embed", max_seqs=4).start()
    job = embedding(30)
    await wire.enqueue(job)
    events = await wire.finished()
    check_log(events)
    assert vectors_of(events) == scripted(job)
    assert events[-1] == Done(31, contract.Usage(90, 0))


async def test_pairs_are_tokenized_as_pairs(local_worker, wire, text):
    worker = local_worker(task="score").start()
    job = make_job(kind="score", prompts=["q", "one", "two"], num_queries=1)
    await wire.enqueue(job)
    events = await wire.finished()
    expected = [text.tokenizer.encode_pair("q", document) for document in ("one", "two")]
    scores = [vector_of(ids, type_ids if any(type_ids) else [], 1) for ids, type_ids in expected]
    assert vectors_of(events) == scores
    assert worker.service.runs.meter.counts.generation_tokens == 0


async def test_after_a_crash_only_what_is_not_in_the_log_is_made_again(local_worker, wire):
    job = embedding()
    await wire.enqueue(job)
    made = scripted(job)
    left = [Started(0, 18), Vectors(1, 0, 2, b"".join(made[:2]))]
    await wire.client.rpush("log:j", *map(encode, left))
    await wire.client.hset(contract.job_key("j"), "fingerprint", "scripted")
    worker = local_worker(task="embed")
    seen = []
    add = worker.engine.add

    def watched(request):
        seen.append(request.prompt_ids)
        add(request)

    worker.engine.add = watched
    worker.start()
    events = await wire.finished()
    check_log(events)
    assert vectors_of(events) == made
    assert seen == job.prompts[2:]


async def test_an_engine_that_dies_costs_no_vector(local_worker, wire):
    worker = local_worker(task="embed", max_seqs=1, step_s=0.01).start()
    job = embedding(40)
    await wire.enqueue(job)
    await wire.until(lambda events: len(vectors_of(events)) >= 5)
    worker.engine.die()
    events = await wire.finished()
    check_log(events)
    assert any(isinstance(event, Fence) for event in events)
    assert vectors_of(events) == scripted(job)


async def test_vectors_of_other_weights_are_not_continued(local_worker, wire):
    job = embedding()
    await wire.enqueue(job)
    left = [Started(0, 18), Vectors(1, 0, 1, b"\0" * 4 * EIGHT)]
    await wire.client.rpush("log:j", *map(encode, left))
    await wire.client.hset(contract.job_key("j"), "fingerprint", "others")
    local_worker(task="embed").start()
    events = await wire.finished()
    assert events[-1].code == "model_changed"


async def test_a_running_job_stops_within_a_step_of_its_cancel(local_worker, wire):
    worker = local_worker(task="embed", max_seqs=1, step_s=0.01).start()
    job = embedding(2000)
    await wire.enqueue(job)
    await wire.until(lambda events: len(vectors_of(events)) >= 2)
    await wire.cancel(job)
    events = await wire.finished()
    check_log(events)
    assert events[-1].code == "cancelled"
    await wire.until_true(lambda: not worker.engine.engine.has_work())


async def test_a_small_job_does_not_wait_for_all_of_a_large_one(local_worker, wire):
    local_worker(task="embed", max_seqs=4, step_s=0.005, max_num_batched_tokens=12).start()
    await wire.enqueue(embedding(2000))
    await wire.until(lambda events: len(vectors_of(events)) >= 1)
    await wire.enqueue(embedding(2, job_id="small"))
    check_log(await wire.finished("small"))
    assert not any(isinstance(event, Done | Failed) for event in await wire.events())


@pytest.mark.parametrize(
    ("task", "job", "does"),
    [
        ("embed", make_job(), "makes embeddings"),
        ("auto", embedding(), "generates text"),
        ("score", embedding(), "scores pairs"),
    ],
    ids=["text of embeddings", "embeddings of text", "embeddings of a scorer"],
)
async def test_a_job_for_another_task_is_refused(local_worker, wire, task, job, does):
    local_worker(task=task).start()
    await wire.enqueue(job)
    (failed,) = await wire.finished()
    assert (failed.code, failed.param) == ("unsupported_model", "model")
    assert does in failed.message


async def test_an_input_that_is_too_long_is_named(local_worker, wire):
    local_worker(task="embed", max_model_len=4).start()
    await wire.enqueue(embedding(prompts=[[5], [5] * 9], endpoint=contract.EMBEDDINGS))
    (failed,) = await wire.finished()
    assert (failed.code, failed.param) == ("context_length_exceeded", "input")
    assert failed.message.startswith("Input 1 has 9 tokens; this model takes 4.")


INFO = EngineInfo(
    context_length=16, vocab_size=2048, kv_tokens=0, max_seqs=4, device="x", dtype="x", task="embed"
)


@pytest.mark.parametrize(("asked", "length"), [(5, 5), (-1, 16), (100, 16)])
def test_inputs_are_cut_at_their_ends_to_what_was_asked_for(text, asked, length):
    words = "one two three four five six seven eight nine ten " * 200
    (whole,) = inputs_of(embedding(prompts=[words[:40]]), text, INFO)
    (cut,) = inputs_of(embedding(prompts=[words], max_input_tokens=asked), text, INFO)
    assert len(cut.prompt_ids) == length
    assert cut.prompt_ids[:4] == whole.prompt_ids[:4]
    job = embedding(prompts=[list(range(40))], max_input_tokens=asked)
    assert inputs_of(job, text, INFO)[0].prompt_ids == list(range(length))


@pytest.mark.parametrize(
    "prompt",
    ["\ud800", [5, 99_999], []],
    ids=["half a surrogate pair", "no such token", "nothing"],
)
def test_what_the_tokenizer_refuses_is_refused_with_the_field_s_name(text, prompt):
    job = embedding(prompts=[prompt], endpoint=contract.EMBEDDINGS)
    with pytest.raises(InvalidInput) as caught:
        inputs_of(job, text, INFO)
    assert caught.value.param == "input"


def test_a_document_is_cut_by_itself_before_it_joins_its_query(text):
    prompts = ["a query", "the document goes on and on"]
    job = make_job(kind="score", prompts=prompts, num_queries=1, max_document_tokens=2)
    (pair,) = inputs_of(job, text, INFO)
    ids = text.tokenizer.encode_pair(*prompts).ids
    document = text.tokenizer.encode(prompts[1], add_special_tokens=False)
    assert len(pair.prompt_ids) == len(ids) - len(document) + 2


def test_a_document_that_is_embedded_for_its_query_is_cut_by_itself_too(text):
    prompts = ["a query of some words", "the document goes on and on " * 100]
    job = embedding(prompts=prompts, num_queries=1, max_document_tokens=2)
    query, document = inputs_of(job, text, INFO)
    assert query.prompt_ids == text.tokenizer.encode_text(prompts[0]).ids
    added = len(text.tokenizer.encode_text("").ids)
    assert len(document.prompt_ids) == added + 2
    assert set(text.tokenizer.encode(prompts[1], False)[:2]) <= set(document.prompt_ids)


def test_a_huge_text_is_refused_before_it_is_tokenized_whole(text):
    with pytest.raises(InputTooLong, match="this model takes 16") as caught:
        inputs_of(embedding(prompts=["word " * 2_000_000]), text, INFO)
    assert caught.value.code == "context_length_exceeded"


def test_queries_meet_the_documents_of_their_number(text):
    job = make_job(kind="score", prompts=["a", "b", "c", "d"], num_queries=2)
    pairs = [made.prompt_ids for made in inputs_of(job, text, INFO)]
    assert pairs == [text.tokenizer.encode_pair(*pair).ids for pair in ("ac", "bd")]
