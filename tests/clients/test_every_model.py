"""The live matrix: unmodified SDKs as callers, providers of every format, everything they do.

One test is one row of docs/matrix.md: a caller and a provider, and in its columns what the SDK
showed. `yes` is held to the same facts whoever the caller and the provider are; any other cell is
listed in `NOTES` with what stands in its place, and is looked at as closely. The page has what the
run saw, or the test fails; `GATEWAY_WRITE_DOCS=1` writes it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anthropic
import matrix_page
import msgspec
import openai
import pytest
from client_site import Caller, Site
from every_model_openai import Chat, Responses
from every_model_others import Gemini, Messages
from every_model_talk import (
    ARGUMENTS,
    RECALLED,
    RESULT,
    SAID,
    SEEN,
    SEEN_AT,
    THOUGHT,
    TOOL,
    Called,
    Said,
    Style,
    Talk,
)
from google.genai import errors

pytestmark = pytest.mark.clients


class Upstream(msgspec.Struct, frozen=True):
    """A provider of the site; models that think, each with the way in which it is asked to."""

    name: str
    provider: str
    models: tuple[tuple[str, Style], ...]
    priced: str | None = None
    """A model whose name may be longer and still has a price, if not the first."""

    @property
    def model(self) -> str:
        return self.models[0][0]

    def switched(self, switches: str) -> str:
        """The name of a model that fails as the switches say."""
        return f"{self.provider}/{self.priced or self.model}+{switches}"


UPSTREAMS = (
    Upstream("OpenAI", "openai", (("gpt-5", "budget"), ("gpt-5", "effort")), "gpt-4.5-preview"),
    Upstream("OpenAI-compatible", "moonshot", (("kimi-k2.6", "budget"), ("kimi-k2.6", "effort"))),
    Upstream(
        "Anthropic", "anthropic", (("claude-opus-4-5", "budget"), ("claude-opus-4-7", "effort"))
    ),
    Upstream(
        "Gemini", "google", (("gemini-2.5-pro", "budget"), ("gemini-3-pro-preview", "effort"))
    ),
)
CALLERS: tuple[type[Talk], ...] = (Chat, Responses, Messages, Gemini)
NATIVE = {
    (Chat.name, "OpenAI"), (Chat.name, "OpenAI-compatible"), (Responses.name, "OpenAI"),
    (Messages.name, "Anthropic"), (Gemini.name, "Gemini"),
}  # fmt: skip
"""Whose bytes pass as they are."""

ORDER = [(caller.name, upstream.name) for caller in CALLERS for upstream in UPSTREAMS]

COUNTED = "counted, not shown"
FORGOTTEN = "not kept"
FIRST = "in the first turn"
BY_MODEL = "claude-opus-4-5: {}; claude-opus-4-7: {}"

# OpenAI's chat completions count what was thought and never show it.
_UNSHOWN = {
    "thinking": COUNTED,
    "streamed thinking": COUNTED,
    "thinking between tool calls": f"{FORGOTTEN}, {COUNTED}",
}
_BY_CLAUDE = BY_MODEL.format("yes", COUNTED)
NOTES: Mapping[tuple[str, str], Mapping[str, str]] = {
    (Chat.name, "OpenAI"): _UNSHOWN,
    (Messages.name, "OpenAI"): _UNSHOWN,
    (Gemini.name, "OpenAI"): _UNSHOWN,
    # Nor can a caller of theirs ask to be shown any, or send a signature back. What Claude shows
    # unasked when it thinks by budget, it shows; its next turn must then do without thinking.
    (Chat.name, "Gemini"): _UNSHOWN,
    (Chat.name, "Anthropic"): {
        "thinking": _BY_CLAUDE,
        "streamed thinking": _BY_CLAUDE,
        "thinking between tool calls": BY_MODEL.format(FIRST, f"{FORGOTTEN}, {COUNTED}"),
    },
}
"""What is not `yes`: where a format has no place for it."""


class Run(msgspec.Struct, frozen=True):
    """One row being run."""

    talk: Talk
    upstream: Upstream
    site: Site
    key: Caller

    def receipt(self, back: int = 1) -> dict[str, Any]:
        """Of the last call, or of one before it; it went where the row says."""
        # An SDK that met an error event leaves before the last byte.
        receipt = self.site.final(self.talk.watch.answers[-back].headers, self.key)
        (attempt,) = receipt["route"]["attempts"]
        assert attempt["provider"] == self.upstream.provider
        if receipt["status"] == "succeeded":
            native = (self.talk.name, self.upstream.name) in NATIVE
            assert receipt["route"]["translated"] is not native
        return receipt

    def by_model(self, see: Callable[[str, Style], str]) -> str:
        """What is seen of the provider's models: one word, or each one's where they differ."""
        seen = {model: see(model, style) for model, style in self.upstream.models}
        if len(set(seen.values())) == 1:
            return next(iter(seen.values()))
        return "; ".join(f"{model}: {cell}" for model, cell in seen.items())


def text(run: Run) -> str:
    assert run.talk.text(run.upstream.model).text.startswith(SAID)
    return "yes"


def stream(run: Run) -> str:
    assert run.talk.stream(run.upstream.model).text.startswith(SAID)
    return "yes"


def call(run: Run) -> str:
    _check_call(run.talk.call(run.upstream.model, stream=False))
    return "yes"


def call_stream(run: Run) -> str:
    called = run.talk.call(run.upstream.model, stream=True)
    _check_call(called)
    # Gemini has calls whole, whoever asks.
    in_pieces = run.talk.call_in_pieces and run.upstream.name != "Gemini"
    assert (called.pieces > 1) is in_pieces
    return "yes"


def _check_call(called: Called) -> None:
    assert (called.name, called.arguments) == (TOOL, ARGUMENTS)


def result(run: Run) -> str:
    for model, _ in run.upstream.models:
        _check_result(run.talk.result(model))
    return "yes"


def _check_result(said: Said) -> None:
    assert said.text.startswith(f"The tool {TOOL} answered: ")
    assert RESULT in said.text


def image_file(run: Run) -> str:
    assert SEEN in run.talk.image(run.upstream.model, url=False).text
    return "yes"


def image_url(run: Run) -> str:
    assert SEEN_AT in run.talk.image(run.upstream.model, url=True).text
    return "yes"


def think(run: Run) -> str:
    return _thinking(run, stream=False)


def think_stream(run: Run) -> str:
    return _thinking(run, stream=True)


def _thinking(run: Run, *, stream: bool) -> str:
    def see(model: str, style: Style) -> str:
        said = run.talk.think(model, style, stream=stream)
        assert said.text.startswith(SAID)
        return _how_thought(run.receipt(), said.thought)

    return run.by_model(see)


def _how_thought(receipt: Mapping[str, Any], thought: str) -> str:
    # Whatever is shown, it was asked to think and did.
    assert receipt["usage"]["reasoning_tokens"]
    if not thought:
        return COUNTED
    assert thought.startswith(THOUGHT)
    return "yes"


def think_and_call(run: Run) -> str:
    return run.by_model(lambda model, style: _turns(run, model, style))


def _turns(run: Run, model: str, style: Style) -> str:
    called, said = run.talk.think_and_call(model, style)
    _check_call(called)
    _check_result(said)
    assert "x-gateway-ignored" not in run.talk.watch.answers[-2].headers
    shown = _how_thought(run.receipt(back=2), called.thought)
    receipt = run.receipt()
    if RECALLED in said.text:
        # The provider had its own thoughts back, and went on thinking.
        assert _how_thought(receipt, said.thought) == shown
        return shown
    if receipt["usage"]["reasoning_tokens"]:
        return f"{FORGOTTEN}, {shown}" if shown != "yes" else FORGOTTEN
    assert run.talk.watch.last.headers["x-gateway-ignored"]
    return FIRST


def structured(run: Run) -> str:
    for forecast in run.talk.structured(run.upstream.model):
        assert (forecast.city, forecast.days, forecast.sky) == ("demo city", 1, "clear")
    return "yes"


def error(run: Run) -> str:
    refused = run.talk.refused(run.upstream.switched("status=400"), stream=False)
    assert isinstance(
        refused, openai.BadRequestError | anthropic.BadRequestError | errors.ClientError
    )
    assert "The demo upstream answers 400, as the model name asks." in str(refused)
    broken = run.talk.refused(run.upstream.switched("error=8"), stream=True)
    assert run.receipt()["failure"]["stage"] == "upstream_stream"
    assert any(word in str(broken) for word in ("failed while", "verloaded")), str(broken)
    return "yes"


def usage(run: Run) -> str:
    for ask in (run.talk.text, run.talk.stream):
        said = ask(run.upstream.model)
        receipt = run.receipt()
        counted = receipt["usage"]
        assert (counted["input_tokens"], counted["output_tokens"]) == (said.input, said.output)
        assert counted["total_tokens"] == said.input + said.output > 0
        assert counted["source"] == "reported"
        assert receipt["status"] == "succeeded"
        assert receipt["cost"]["nano_usd"] > 0
    return "yes"


COLUMNS: Mapping[str, Callable[[Run], str]] = {
    "text": text,
    "stream": stream,
    "tool call": call,
    "streamed tool call": call_stream,
    "tool result": result,
    "image, as a file": image_file,
    "image, by URL": image_url,
    "thinking": think,
    "streamed thinking": think_stream,
    "thinking between tool calls": think_and_call,
    "structured output": structured,
    "error": error,
    "usage": usage,
}


@pytest.fixture
def run(request: pytest.FixtureRequest, site: Site, gateway_key: Caller) -> Iterator[Run]:
    caller, upstream = request.param
    talk = caller(site, gateway_key.key)
    yield Run(talk, upstream, site, gateway_key)
    talk.close()


@pytest.mark.parametrize(
    "run",
    [
        pytest.param((caller, upstream), id=f"{caller.name} to {upstream.name}")
        for caller in CALLERS
        for upstream in UPSTREAMS
    ],
    indirect=True,
)
def test_a_caller_gets_from_a_provider_what_the_page_says(run: Run) -> None:
    key = (run.talk.name, run.upstream.name)
    row, failures = {}, []
    for column, check in COLUMNS.items():
        try:
            row[column] = check(run)
        except Exception as failure:  # noqa: BLE001 - a row tells of all its columns at once
            failure.add_note(f"in the column {column!r}")
            failures.append(failure)
    if failures:
        raise ExceptionGroup(" to ".join(key), failures)
    notes = NOTES.get(key, {})
    assert row == {column: notes.get(column, "yes") for column in COLUMNS}
    matrix_page.hold(key, row, ORDER)
