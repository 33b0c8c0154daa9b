"""The routes that other servers have beside OpenAI's: a part of the table in operations.py."""

from typing import Any

from api.anthropic.errors import THREAD
from api.openapi.answers import answers
from api.openapi.operation import (
    ADMIN,
    BODY,
    GENERATION,
    JOB,
    LOOK_UP,
    PAGE,
    Operation,
    Reply,
)
from api.openapi.parameters import WISHES
from api.schema.anthropic import CountRequest, MessagesRequest
from api.schema.anthropic_object import Count, ErrorObject, MessageObject
from api.schema.chat import ChatRequest
from api.schema.re_isq import ReIsq, ReIsqRequest
from api.schema.response_object import InputCount
from api.schema.responses import ResponsesRequest
from api.schema.stored import StoredDeleted, StoredList
from api.schema.tokens import (
    Detokenized,
    DetokenizeRequest,
    Rendered,
    TokenizeRequest,
)
from api.schema.vectors import (
    EmbeddingList,
    EmbeddingRequest,
    RankedList,
    RerankRequest,
    ScoreList,
    ScoreRequest,
)
from api.wishes import PREFER
from workers.contract import EMBEDDINGS, RERANKS, SCORES

_CHANGE = Reply("The change of weights at this moment.", ReIsq)
_BEGUN = Reply("It goes on.", ReIsq, 202, headers=("location", "preference-applied"))
_QUESTIONS: tuple[tuple[str, str, Any, Any], ...] = (
    ("/tokenize", "The token ids of a text or a chat", TokenizeRequest, dict[str, Any]),
    ("/detokenize", "The text of token ids", DetokenizeRequest, Detokenized),
    ("/apply-template", "A chat as the model reads it", ChatRequest, Rendered),
)

VECTOR_ROUTES: tuple[tuple[str, str, Any, Any], ...] = (
    (EMBEDDINGS, "Make embeddings", EmbeddingRequest, EmbeddingList),
    *((path, "Score pairs of texts", ScoreRequest, ScoreList) for path in SCORES),
    *((path, "Rank documents by a query", RerankRequest, RankedList) for path in RERANKS),
)

MORE_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/messages",
        "Answer a conversation, as Anthropic has it",
        answers(MessageObject),
        GENERATION | {THREAD},
        body=MessagesRequest,
        params=(*WISHES, "Last-Event-ID"),
        streams="Anthropic's named events, each with its number as `id:`.",
        error=ErrorObject,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        "Count the tokens of a conversation, as Anthropic has it",
        (Reply("The number.", Count),),
        GENERATION | {THREAD},
        body=CountRequest,
        error=ErrorObject,
    ),
    *(
        Operation("POST", prefix + path, summary, (Reply("It.", answer),), GENERATION, body=body)
        for path, summary, body, answer in _QUESTIONS
        for prefix in ("", "/v1")
    ),
    Operation(
        "POST",
        "/v1/responses/input_tokens",
        "Count the tokens that a response would have to read",
        (Reply("The number.", InputCount),),
        GENERATION | {"previous_response_not_found", "item_not_found"},
        body=ResponsesRequest,
    ),
    Operation(
        "GET",
        "/v1/chat/completions",
        "List stored chat completions",
        (Reply("A page of them.", StoredList),),
        LOOK_UP | {"not_found"},
        params=(*PAGE, "order", "model"),
    ),
    Operation(
        "GET",
        "/v1/chat/completions/{completion_id}",
        "Look at a stored chat completion",
        (Reply("The completion.", dict[str, Any]),),
        LOOK_UP | JOB | {"not_found"},
    ),
    Operation(
        "DELETE",
        "/v1/chat/completions/{completion_id}",
        "Delete a stored chat completion",
        (Reply("It is gone.", StoredDeleted),),
        LOOK_UP | {"not_found"},
    ),
    *(
        Operation(
            "POST",
            path,
            "Quantise the weights of a model anew while it serves",
            (_CHANGE, _BEGUN),
            BODY | ADMIN | {"model_not_found", "conflict", "re_isq_failed", "no_workers"},
            body=ReIsqRequest,
            params=(PREFER,),
        )
        for path in ("/v1/re_isq", "/re_isq")
    ),
    *(
        Operation(
            "GET",
            f"{path}/{{change_id}}",
            "How far is a change of weights?",
            (_CHANGE,),
            ADMIN | {"not_found", "no_workers"},
        )
        for path in ("/v1/re_isq", "/re_isq")
    ),
    Operation(
        "GET",
        "/metrics",
        "Counts and times for Prometheus",
        (Reply("Prometheus' text.", str, media="text/plain"),),
        ADMIN,
    ),
)
