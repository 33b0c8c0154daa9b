"""What the API asks a worker beside jobs: texts as tokens and back, chats as prompts. The wire's
part of it; knows msgspec only.

A question lies in Redis under a key of its own for as long as somebody waits for the reply, and its
id in a list, from which one worker takes it. The reply comes by the channel of the API process that
asked. A question that dies with its worker is not asked again: its client hears of it and may.
"""

import msgspec

from workers.contract import Failed, Job, encode

ANSWER_S = 20  # how long anybody waits
MAX_QUESTIONS = 256  # of one model that wait
MAX_BYTES = 2 << 20  # of one question: half a million tokens, some seconds of a core
REPLY = b"R"  # what a reply begins with on its channel; no batch of log entries does


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """The token ids of a text; `adds_special_tokens` such as BOS, where the model wants them."""

    text: str
    adds_special_tokens: bool


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """The text of token ids."""

    token_ids: list[int]


class Render(msgspec.Struct, frozen=True, tag="render"):
    """A chat job's prompt, as text and, if `is_tokenized`, as token ids."""

    job: Job
    is_tokenized: bool


Subject = Tokenize | Detokenize | Render


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """`home` is the API process that waits; `wants_pieces` asks for what each token adds."""

    id: str
    home: str
    subject: Subject
    wants_pieces: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, or why there is none. `pieces` are UTF-8, a token may cut a character."""

    id: str
    text: str = ""
    token_ids: list[int] = []
    pieces: list[bytes] = []
    failed: Failed | None = None


_question_decoder = msgspec.msgpack.Decoder(Question)
_reply_decoder = msgspec.msgpack.Decoder(Reply)

decode_question = _question_decoder.decode


def questions_key(queue: str) -> str:
    """LIST with expiry: ids of the questions to a queue's workers."""
    return f"{queue}:questions"


def question_key(question_id: str) -> str:
    """STRING with expiry: the Question."""
    return f"question:{question_id}"


def encode_reply(reply: Reply) -> bytes:
    """A reply as it goes over the channel."""
    return REPLY + encode(reply)


def decode_reply(message: bytes) -> Reply:
    """The reply in a message that begins with REPLY. Raises msgspec.MsgspecError."""
    return _reply_decoder.decode(message[len(REPLY) :])
