"""The bodies of /v1/embeddings, /v1/score and /v1/rerank, and the inputs they put into a job.

Names are those of OpenAI (embeddings), vLLM (score) and of Jina and Cohere (rerank). Knows no HTTP
and no tokenizer.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.sampling import Metadata, Tier, check_token_ids

MAX_INPUTS = 2048  # OpenAI's bound

_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Cut = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Texts = Annotated[list[str], Meta(min_length=1, max_length=MAX_INPUTS)]
Prompts = list[str | list[int]]


class VectorFields(msgspec.Struct, kw_only=True):
    """Fields of all three. Inputs that are too long are refused, unless `truncate_prompt_tokens`
    says to how many tokens they are cut; -1: to what the model takes.
    """

    model: str = "default"
    truncate_prompt_tokens: _Cut | None = None
    service_tier: Tier | None = None
    metadata: Metadata | None = None
    user: Any = None


class EmbeddingRequest(VectorFields, kw_only=True):
    """POST /v1/embeddings. `input` is a text, texts, token ids or lists of token ids."""

    input: str | list[str | _TokenId | list[_TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: _Size | None = None

    def prompts(self, vocab_size: int) -> Prompts:
        """The inputs, none of them empty. Raises ApiError."""
        prompts = self._prompts()
        if len(prompts) > MAX_INPUTS:
            what = f"'input' has {len(prompts)} items; it may have {MAX_INPUTS}."
            raise ApiError("invalid_value", what, "input")
        for prompt in prompts:
            if not prompt:
                raise ApiError("invalid_value", "An input must not be empty.", "input")
            if not isinstance(prompt, str):
                check_token_ids(prompt, vocab_size, "input")
        return prompts

    def _prompts(self) -> Prompts:
        if isinstance(self.input, str):
            return [self.input]
        token_ids = [item for item in self.input if isinstance(item, int)]
        prompts = [item for item in self.input if not isinstance(item, int)]
        if token_ids and prompts:
            what = "'input' mixes token ids with whole inputs."
            raise ApiError("invalid_type", what, "input")
        return prompts or [token_ids]

    def check_size(self, vector_size: int) -> None:
        """Raise ApiError if more dimensions are asked for than the model's vectors have."""
        if self.dimensions is not None and self.dimensions > vector_size:
            what = f"'dimensions' is {self.dimensions}; this model's embeddings have {vector_size}."
            raise ApiError("invalid_value", what, "dimensions")


class ScoreRequest(VectorFields, kw_only=True):
    """POST /v1/score: one text against one or many, or as many against as many."""

    text_1: str | _Texts
    text_2: str | _Texts

    def pairs(self) -> tuple[list[str], list[str]]:
        """Queries and documents. Raises ApiError."""
        queries = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        documents = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(queries) not in (1, len(documents)):
            what = "'text_1' has either one text or as many as 'text_2'."
            raise ApiError("invalid_value", what, "text_1")
        return queries, documents


class DocumentText(msgspec.Struct, frozen=True):
    """A document as an object."""

    text: str


class RerankRequest(VectorFields, kw_only=True):
    """POST /v1/rerank. `top_n` 0: all documents."""

    query: str
    documents: Annotated[list[str | DocumentText], Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: _Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: _Count | None = None

    def texts(self) -> list[str]:
        """The documents."""
        return [d if isinstance(d, str) else d.text for d in self.documents]


class VectorUsage(msgspec.Struct, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    """The vector of one input: numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """What /v1/embeddings answers, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: VectorUsage | None


class Score(msgspec.Struct, frozen=True):
    """How well one pair fits."""

    index: int
    score: float
    object: Literal["score"] = "score"


class ScoreList(msgspec.Struct, frozen=True, kw_only=True):
    """What /v1/score answers, in the order of the pairs."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: VectorUsage | None


class Ranked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document's number in the request, and how well it answers the query."""

    index: int
    relevance_score: float
    document: DocumentText | None = None


class RankedList(msgspec.Struct, frozen=True, kw_only=True):
    """What /v1/rerank answers, the best document first."""

    id: str
    model: str
    results: list[Ranked]
    usage: VectorUsage | None
