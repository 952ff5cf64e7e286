"""Embeddings of a target that speaks another format than its caller: OpenAI's and Gemini's.

The answer has to have as many vectors as there were texts. What it is billed is what the meter of
the upstream's format says; where the upstream told nothing (Google's older models never do) it is
the same estimate as without translation, told to the caller as the usage and marked by
`X-Gateway-Estimated: true`. Used by the sender (`request`).
"""

from typing import TYPE_CHECKING, Literal

from gateway.errors import GatewayError
from gateway.proxy import settlement, translated
from gateway.proxy.counting import ESTIMATED_LINE
from gateway.proxy.headers import Answer
from gateway.proxy.passthrough import Relay
from gateway.proxy.routing import Target
from gateway.wire import embeddings_translation as embeddings
from gateway.wire import registry
from gateway.wire.conversation import AnswerError
from gateway.wire.embeddings_translation import Embedding, Method, Vectors
from gateway.wire.format import BodyTap
from gateway.wire.neutral import Metered

if TYPE_CHECKING:
    from gateway.proxy.admission import Plan
    from gateway.proxy.exchange import Exchange

Upstream = Literal["openai_embeddings", "gemini_embeddings"]
_DIALECTS = {"openai_embeddings": "openai_chat", "gemini_embeddings": "gemini"}
"""Whose errors the providers answer with."""


def request(exchange: "Exchange", plan: "Plan", target: Target) -> bytes:
    """A request for vectors as a target of the other format gets it.

    Leaves its call on the exchange. Raises `GatewayError` where it cannot be said in that format.
    """
    endpoint = exchange.endpoint
    if target.speaks == "gemini_embeddings":
        asked = embeddings.read_openai(plan.body)
        body, method = embeddings.write_gemini(asked, target.model)
        path = translated.gemini_path(target, method)
    else:
        asked = embeddings.read_gemini(plan.body, _method(endpoint.path))
        body, path = embeddings.write_openai(asked, target.model), "embeddings"
    assert target.speaks is not None
    exchange.translation = EmbeddingCall(asked, target.speaks, exchange)
    return translated.outgoing(exchange, plan, target, path, body)


def _method(path: str) -> Method:
    return "embedContent" if path.endswith(":embedContent") else "batchEmbedContents"


class EmbeddingCall:
    """See `translated.Foreign` and `translated.Whole`."""

    __slots__ = ("_asked", "_model", "_request_bytes", "_speaks", "ignored", "told")

    streams = False

    def __init__(self, asked: Embedding, speaks: str, exchange: "Exchange") -> None:
        self._asked = asked
        self._speaks = speaks
        self._model = exchange.model
        self._request_bytes = exchange.size
        self.ignored = asked.left_out
        self.told = b""

    def relay(self, exchange: "Exchange", status: int, answer: Answer) -> Relay:
        """See `Foreign.relay`."""
        return translated.TranslatedBody(exchange, self, status, answer)

    def tap(self) -> BodyTap:
        """See `Whole.tap`."""
        return registry.body_tap(self._speaks)

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `Whole.read_error`."""
        return registry.dialect(_DIALECTS[self._speaks]).read_error(status, body)

    def answer(self, body: bytes, metered: Metered | None) -> bytes | AnswerError | None:
        """See `Whole.answer`."""
        asked = self._asked
        gemini = self._speaks == "gemini_embeddings"
        read = embeddings.read_gemini_answer if gemini else embeddings.read_openai_answer
        found = read(body)
        if found is None:
            return None
        if len(found.vectors) != len(asked.inputs):
            return AnswerError(
                f"The upstream answered with {len(found.vectors)} vectors to "
                f"{len(asked.inputs)} texts"
            )
        usage, source = settlement.usage_of("complete", metered, self._speaks, self._request_bytes)
        if source == "estimated":
            self.told = ESTIMATED_LINE
        told = Vectors(found.vectors, usage)
        if not gemini:
            return embeddings.write_gemini_answer(told, asked)
        try:
            return embeddings.write_openai_answer(told, asked, self._model)
        except GatewayError as error:  # a vector of numbers that no 32-bit float holds
            return AnswerError(error.message)
