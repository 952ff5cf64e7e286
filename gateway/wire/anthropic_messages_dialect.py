"""Anthropic Messages as a `Dialect`: its eight parts under one name. Used by the registry."""

from collections.abc import Mapping

from gateway.wire import anthropic_messages_usual, utf8
from gateway.wire.anthropic_messages_answers import read_answer, read_error, write_answer
from gateway.wire.anthropic_messages_blocks import FORMAT
from gateway.wire.anthropic_messages_bodies import write_count, write_request
from gateway.wire.anthropic_messages_requests import SUPPORT, read_request
from gateway.wire.anthropic_messages_stream_writer import MessagesStreamWriter
from gateway.wire.anthropic_messages_streams import MessagesStreamReader
from gateway.wire.conversation import Answer, AnswerError, Feature, Request, Support
from gateway.wire.format import Asked, StreamReader, StreamWriter, Toward


class MessagesDialect:
    """See `format.Dialect`; and `write_count`, for providers that count tokens beforehand."""

    name = FORMAT
    support: Mapping[Feature, Support] = SUPPORT

    def read_request(self, body: bytes, *, model: str | None, stream: bool | None) -> Request:
        """See `format.Dialect.read_request`. A count_tokens body reads as well."""
        utf8.require(body)
        found = anthropic_messages_usual.read_request(body, stream=stream)
        return read_request(body, model=model, stream=stream) if found is None else found

    def write_request(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """See `format.Dialect.write_request`."""
        body = anthropic_messages_usual.write_request(request, toward)
        return write_request(request, toward) if body is None else (body, [])

    def write_count(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """The same request as the body of `/v1/messages/count_tokens`."""
        return write_count(request, toward)

    def read_answer(self, body: bytes) -> Answer | None:
        """See `format.Dialect.read_answer`."""
        return read_answer(body) if utf8.is_text(body) else None

    def write_answer(self, answer: Answer, asked: Asked) -> bytes:
        """See `format.Dialect.write_answer`."""
        return write_answer(answer, asked)

    def reader(self) -> StreamReader:
        """See `format.Dialect.reader`."""
        return MessagesStreamReader()

    def writer(self, asked: Asked) -> StreamWriter:
        """See `format.Dialect.writer`."""
        return MessagesStreamWriter(asked)

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `format.Dialect.read_error`."""
        return read_error(status, body)


DIALECT = MessagesDialect()
