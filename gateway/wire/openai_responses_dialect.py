"""OpenAI Responses as a dialect: its eight parts under one name. Used by `registry.py` alone."""

from collections.abc import Mapping

from gateway.wire import (
    openai_responses_answers,
    openai_responses_bodies,
    openai_responses_requests,
    utf8,
)
from gateway.wire.conversation import Answer, AnswerError, Feature, Request, Support
from gateway.wire.format import Asked, StreamReader, StreamWriter, Toward
from gateway.wire.openai_responses_items import NAME
from gateway.wire.openai_responses_reader import ResponsesReader
from gateway.wire.openai_responses_requests import SUPPORT
from gateway.wire.openai_responses_streams import ResponsesWriter


class ResponsesDialect:
    """See `format.Dialect`."""

    name: str = NAME
    support: Mapping[Feature, Support] = SUPPORT

    def read_request(self, body: bytes, *, model: str | None, stream: bool | None) -> Request:
        """See `format.Dialect.read_request`."""
        utf8.require(body)
        return openai_responses_requests.read_request(body, model=model, stream=stream)

    def write_request(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """See `format.Dialect.write_request`."""
        return openai_responses_bodies.write_request(request, toward)

    def read_answer(self, body: bytes) -> Answer | None:
        """See `format.Dialect.read_answer`."""
        return openai_responses_answers.read_answer(body) if utf8.is_text(body) else None

    def write_answer(self, answer: Answer, asked: Asked) -> bytes:
        """See `format.Dialect.write_answer`."""
        return openai_responses_answers.write_answer(answer, asked)

    def reader(self) -> StreamReader:
        """See `format.Dialect.reader`."""
        return ResponsesReader()

    def writer(self, asked: Asked) -> StreamWriter:
        """See `format.Dialect.writer`."""
        return ResponsesWriter(asked)

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `format.Dialect.read_error`."""
        return openai_responses_answers.read_error(status, body)


DIALECT = ResponsesDialect()
