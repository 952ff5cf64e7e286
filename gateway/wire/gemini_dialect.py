"""Gemini's `Dialect`: its eight parts, put together. See `format.Dialect`.

Sources and rules are in the modules that do the work: `gemini_requests.py`, `gemini_outgoing.py`,
`gemini_answers.py`, `gemini_usual.py` (a shorter way for what is usual), `gemini_streams.py`,
`gemini_stream_writer.py`.
"""

from collections.abc import Mapping

from gateway.wire import gemini_answers, gemini_outgoing, gemini_requests, gemini_usual, utf8
from gateway.wire.conversation import Answer, AnswerError, Feature, Request, Support
from gateway.wire.format import Asked, Toward
from gateway.wire.gemini_parts import FORMAT
from gateway.wire.gemini_stream_writer import GeminiStreamWriter
from gateway.wire.gemini_streams import GeminiStreamReader


class GeminiDialect:
    """generateContent and streamGenerateContent."""

    name: str = FORMAT
    support: Mapping[Feature, Support] = gemini_requests.SUPPORT

    def read_request(self, body: bytes, *, model: str | None, stream: bool | None) -> Request:
        """See `format.Dialect.read_request`."""
        utf8.require(body)
        found = gemini_usual.read_request(body, model=model, stream=stream)
        if found is not None:
            return found
        return gemini_requests.read_request(body, model=model, stream=stream)

    def write_request(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """See `format.Dialect.write_request`."""
        body = gemini_usual.write_request(request)
        return gemini_outgoing.write_request(request, toward) if body is None else (body, [])

    def read_answer(self, body: bytes) -> Answer | None:
        """See `format.Dialect.read_answer`."""
        if not utf8.is_text(body):
            return None
        return gemini_usual.read_answer(body) or gemini_answers.read_answer(body)

    def write_answer(self, answer: Answer, asked: Asked) -> bytes:
        """See `format.Dialect.write_answer`."""
        return gemini_usual.write_answer(answer, asked) or gemini_answers.write_answer(
            answer, asked
        )

    def reader(self) -> GeminiStreamReader:
        """See `format.Dialect.reader`."""
        return GeminiStreamReader()

    def writer(self, asked: Asked) -> GeminiStreamWriter:
        """See `format.Dialect.writer`."""
        return GeminiStreamWriter(asked)

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `format.Dialect.read_error`."""
        return gemini_answers.read_error(status, body)


DIALECT = GeminiDialect()
