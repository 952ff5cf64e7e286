"""OpenAI chat as one of the formats that are translated into each other: its eight parts.

What they read and write is in `openai_chat_requests.py` (reading requests, what is supported),
`openai_chat_usual.py` (a shorter way for what is usual), `openai_chat_upstream.py` (writing them),
`openai_chat_answers.py`, `openai_chat_streams.py` (reading streams) and `openai_chat_chunks.py`
(writing them). Used by the registry.
"""

from gateway.wire import openai_chat_answers as answers
from gateway.wire import openai_chat_requests as requests
from gateway.wire import openai_chat_upstream as upstream
from gateway.wire import openai_chat_usual as usual
from gateway.wire import utf8
from gateway.wire.conversation import Answer, AnswerError, Request
from gateway.wire.format import Asked, Toward
from gateway.wire.openai_chat_chunks import ChatStreamWriter
from gateway.wire.openai_chat_streams import ChatStreamReader
from gateway.wire.openai_chat_thoughts import NAME


class OpenAIChatDialect:
    """Implements `format.Dialect`."""

    name = NAME
    support = requests.SUPPORT

    def read_request(self, body: bytes, *, model: str | None, stream: bool | None) -> Request:
        """See `format.Dialect.read_request`."""
        utf8.require(body)
        if model is None and stream is None and (usual_one := usual.read_request(body)) is not None:
            return usual_one
        return requests.read_request(body, model=model, stream=stream)

    def write_request(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """See `format.Dialect.write_request`."""
        body = usual.write_request(request, toward)
        return upstream.write_request(request, toward) if body is None else (body, [])

    def read_answer(self, body: bytes) -> Answer | None:
        """See `format.Dialect.read_answer`."""
        if not utf8.is_text(body):
            return None
        return usual.read_answer(body) or answers.read_answer(body)

    def write_answer(self, answer: Answer, asked: Asked) -> bytes:
        """See `format.Dialect.write_answer`."""
        return answers.write_answer(answer, asked)

    def reader(self) -> ChatStreamReader:
        """See `format.Dialect.reader`."""
        return ChatStreamReader()

    def writer(self, asked: Asked) -> ChatStreamWriter:
        """See `format.Dialect.writer`."""
        return ChatStreamWriter(asked)

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `format.Dialect.read_error`."""
        return answers.read_error(status, body)


DIALECT = OpenAIChatDialect()
