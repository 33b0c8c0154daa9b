"""Every route and method that the API has: one table, which a test compares with the app's own."""

from typing import Any

from api.admin import Dropped, Letters
from api.job_view import JobObject
from api.openapi.answers import answers
from api.openapi.more_operations import MORE_OPERATIONS, VECTOR_ROUTES
from api.openapi.operation import (
    ADMIN,
    BODY,
    GENERATION,
    JOB,
    KEYED,
    LOOK_UP,
    PAGE,
    Operation,
    Reply,
)
from api.openapi.parameters import WISHES
from api.schema.batch import BatchList, BatchObject, CreateBatch
from api.schema.chat import ChatRequest
from api.schema.completion import CompletionRequest
from api.schema.file import FileDeleted, FileList, FileObject, UploadFields
from api.schema.response import ChatCompletion, Model, ModelList, TextCompletion
from api.schema.response_items import ItemList
from api.schema.response_object import Deleted, ResponseObject
from api.schema.responses import ResponsesRequest
from api.wishes import IDEMPOTENCY_KEY

_UP = (Reply("The process answers.", str, media="text/plain"),)
_PUBLIC = frozenset({"bad_request", "internal_error"})
_READY = (
    Reply("A request would be served now.", dict[str, Any]),
    Reply("It would not: `status` says why.", dict[str, Any], 503, headers=("retry-after",)),
)
_JOB = Reply("The job at this moment.", JobObject, headers=("x-job-id", "etag"))
_RESPONSE = Reply("The response at this moment.", ResponseObject, headers=("x-job-id",))
_BATCH = Reply("The batch at this moment.", BatchObject, headers=("idempotent-replayed",))
_FILE = Reply("The file.", FileObject, headers=("idempotent-replayed",))
_CHUNKS = "Chunks as OpenAI has them, each with its event number as `id:`, then `[DONE]`."
_NAMED = "The named events of OpenAI's Responses, each with its sequence number as `id:`."


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation",
        answers(ChatCompletion),
        GENERATION,
        body=ChatRequest,
        params=(*WISHES, "Last-Event-ID"),
        streams=_CHUNKS,
    ),
    Operation(
        "POST",
        "/v1/completions",
        "Continue a text",
        answers(TextCompletion),
        GENERATION,
        body=CompletionRequest,
        params=(*WISHES, "Last-Event-ID"),
        streams=_CHUNKS,
    ),
    Operation(
        "POST",
        "/v1/responses",
        "Make a response",
        answers(ResponseObject),
        GENERATION | {"previous_response_not_found", "item_not_found"},
        body=ResponsesRequest,
        params=(*WISHES, "Last-Event-ID"),
        streams=_NAMED,
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}",
        "Look at a stored response, or follow it",
        (_RESPONSE,),
        LOOK_UP | JOB | {"response_not_found"},
        params=("stream", "starting_after", "Last-Event-ID"),
        streams=_NAMED,
    ),
    Operation(
        "DELETE",
        "/v1/responses/{response_id}",
        "Delete a stored response",
        (Reply("It is gone.", Deleted),),
        LOOK_UP | {"response_not_found"},
    ),
    Operation(
        "POST",
        "/v1/responses/{response_id}/cancel",
        "Stop a background response",
        (_RESPONSE,),
        LOOK_UP | {"response_not_found"},
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}/input_items",
        "List what was put into a response",
        (Reply("A page of items.", ItemList),),
        LOOK_UP | {"response_not_found"},
        params=(*PAGE, "order"),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}",
        "Look at any job, or wait for its end",
        (_JOB, Reply("As the client has it.", None, 304, headers=("etag",))),
        LOOK_UP | {"job_not_found", "too_many_streams", "draining"},
        params=("wait", "If-None-Match"),
    ),
    Operation(
        "DELETE",
        "/v1/jobs/{job_id}",
        "Stop a job",
        (_JOB,),
        LOOK_UP | {"job_not_found"},
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/events",
        "Follow the stream of any job",
        (Reply("The client has it all.", None, 204),),
        LOOK_UP | {"job_not_found", "too_many_streams", "draining"},
        params=("starting_after", "Last-Event-ID"),
        streams="The events of the endpoint that the job came in by.",
    ),
    Operation(
        "POST",
        "/v1/files",
        "Upload a file",
        (_FILE,),
        BODY | {"storage_full"},
        body=UploadFields,
        media="multipart/form-data",
        params=(IDEMPOTENCY_KEY,),
    ),
    Operation(
        "GET",
        "/v1/files",
        "List files",
        (Reply("A page of files.", FileList),),
        LOOK_UP | {"not_found"},
        params=(*PAGE, "order", "purpose"),
    ),
    Operation("GET", "/v1/files/{file_id}", "Describe a file", (_FILE,), LOOK_UP | {"not_found"}),
    Operation(
        "DELETE",
        "/v1/files/{file_id}",
        "Delete a file",
        (Reply("It is gone.", FileDeleted),),
        LOOK_UP | {"not_found"},
    ),
    Operation(
        "GET",
        "/v1/files/{file_id}/content",
        "Read a file",
        (Reply("Its bytes.", bytes, media="application/octet-stream"),),
        LOOK_UP | {"not_found"},
    ),
    Operation(
        "POST",
        "/v1/batches",
        "Begin a batch",
        (_BATCH,),
        BODY | {"not_found"},
        body=CreateBatch,
        params=(IDEMPOTENCY_KEY, "x-webhook-url"),
    ),
    Operation(
        "GET",
        "/v1/batches",
        "List batches",
        (Reply("A page of batches.", BatchList),),
        LOOK_UP | {"not_found"},
        params=PAGE,
    ),
    Operation(
        "GET",
        "/v1/batches/{batch_id}",
        "How far is a batch?",
        (_BATCH,),
        LOOK_UP | {"not_found"},
    ),
    Operation(
        "POST",
        "/v1/batches/{batch_id}/cancel",
        "Give a batch up",
        (_BATCH,),
        LOOK_UP | {"not_found", "conflict"},
    ),
    Operation("GET", "/v1/models", "List the models", (Reply("Those served.", ModelList),), KEYED),
    Operation(
        "GET",
        "/v1/models/{name:path}",
        "Describe a model",
        (Reply("The model.", Model),),
        KEYED | {"model_not_found"},
    ),
    Operation(
        "GET",
        "/admin/dead",
        "List dead letters",
        (Reply("The newest.", Letters),),
        ADMIN,
        params=("limit",),
    ),
    Operation(
        "DELETE",
        "/admin/dead/{job_id}",
        "Forget a dead letter",
        (Reply("It is gone.", Dropped),),
        ADMIN | {"job_not_found"},
    ),
    Operation(
        "POST",
        "/admin/dead/{job_id}/retry",
        "Start a dead letter again",
        (_JOB,),
        ADMIN | {"job_not_found"},
    ),
    *MORE_OPERATIONS,
    *(
        Operation("POST", path, summary, answers(answer), GENERATION, body=body, params=WISHES)
        for path, summary, body, answer in VECTOR_ROUTES
    ),
    *(
        Operation(method, path, "Is the process up?", _UP, _PUBLIC, is_public=True)
        for path in ("/", "/health", "/live")
        for method in ("GET", "HEAD")
    ),
    *(
        Operation(method, "/ready", "Would a request be served?", _READY, _PUBLIC, is_public=True)
        for method in ("GET", "HEAD")
    ),
    Operation(
        "GET",
        "/openapi.json",
        "This description",
        (Reply("An OpenAPI 3.1 document.", dict[str, Any]),),
        _PUBLIC,
        is_public=True,
    ),
    Operation(
        "GET",
        "/docs",
        "This description as a page",
        (Reply("HTML.", str, media="text/html"),),
        _PUBLIC,
        is_public=True,
    ),
)
