"""The `anthropic` and the `google-genai` package as callers of the matrix."""

import base64
from typing import Any, ClassVar

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import Message
from client_site import Site
from every_model_talk import (
    BUDGET_TOKENS,
    CALLING,
    EFFORT,
    IMAGE_URL,
    MAX_TOKENS,
    PARAMETERS,
    PNG,
    RESULT,
    SAYING,
    TOOL,
    Called,
    Forecast,
    Said,
    Style,
    Talk,
)
from google import genai
from google.genai import errors, types


class Messages(Talk):
    name = "anthropic: Messages"
    tools: ClassVar[Any] = [{"name": TOOL, "input_schema": PARAMETERS}]

    def __init__(self, site: Site, key: str) -> None:
        super().__init__(site, key)
        http = anthropic.DefaultHttpxClient(event_hooks={"response": [self.watch.see]})
        self.sdk = Anthropic(base_url=site.gateway, api_key=key, http_client=http, max_retries=0)

    def close(self) -> None:
        self.sdk.close()

    def _ask(self, model: str, content: Any, **more: Any) -> Message:
        answer = self.sdk.messages.create(
            model=model,
            max_tokens=MAX_TOKENS,
            messages=[{"role": "user", "content": content}],
            **more,
        )
        assert isinstance(answer, Message)
        return answer

    def _said(self, answer: Message) -> Said:
        assert answer.stop_reason == "end_turn"
        text = "".join(block.text for block in answer.content if block.type == "text")
        used = answer.usage
        return Said(text, used.input_tokens, used.output_tokens, _thinking(answer))

    def text(self, model: str) -> Said:
        return self._said(self._ask(model, SAYING))

    def stream(self, model: str) -> Said:
        return self._streamed(model)

    def _streamed(self, model: str, **more: Any) -> Said:
        said, thought = "", ""
        with self.sdk.messages.stream(
            model=model,
            max_tokens=MAX_TOKENS,
            messages=[{"role": "user", "content": SAYING}],
            **more,
        ) as events:
            for event in events:
                if event.type == "text":
                    said += event.text
                elif event.type == "thinking":
                    thought += event.thinking
            whole = self._said(events.get_final_message())
        assert (said, thought) == (whole.text, whole.thought)
        return whole

    def call(self, model: str, *, stream: bool) -> Called:
        if not stream:
            return self._called(self._ask(model, CALLING, tools=self.tools))
        pieces = 0
        with self.sdk.messages.stream(
            model=model,
            max_tokens=MAX_TOKENS,
            messages=[{"role": "user", "content": CALLING}],
            tools=self.tools,
        ) as events:
            for event in events:
                if event.type == "input_json":
                    pieces += bool(event.partial_json)
            return self._called(events.get_final_message(), pieces)

    def _called(self, answer: Message, pieces: int = 1) -> Called:
        assert answer.stop_reason == "tool_use"
        (call,) = (block for block in answer.content if block.type == "tool_use")
        return Called(call.name, call.input, pieces, _thinking(answer))

    def _turns(self, model: str, **more: Any) -> tuple[Called, Said]:
        answer = self._ask(model, CALLING, tools=self.tools, **more)
        (call,) = (block for block in answer.content if block.type == "tool_use")
        last = self.sdk.messages.create(
            model=model,
            max_tokens=MAX_TOKENS,
            messages=[
                {"role": "user", "content": CALLING},
                {"role": "assistant", "content": answer.content},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT}],
                },
            ],
            tools=self.tools,
            **more,
        )
        return self._called(answer), self._said(last)

    def result(self, model: str) -> Said:
        return self._turns(model)[1]

    def image(self, model: str, *, url: bool) -> Said:
        source: dict[str, str] = {"type": "url", "url": IMAGE_URL}
        if not url:
            data = base64.b64encode(PNG).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
        shown = [{"type": "image", "source": source}, {"type": "text", "text": SAYING}]
        return self._said(self._ask(model, shown))

    def _thinking(self, style: Style) -> dict[str, Any]:
        if style == "budget":
            return {"thinking": {"type": "enabled", "budget_tokens": BUDGET_TOKENS}}
        return {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": EFFORT},
        }

    def think(self, model: str, style: Style, *, stream: bool) -> Said:
        if stream:
            return self._streamed(model, **self._thinking(style))
        return self._said(self._ask(model, SAYING, **self._thinking(style)))

    def think_and_call(self, model: str, style: Style) -> tuple[Called, Said]:
        return self._turns(model, **self._thinking(style))

    def structured(self, model: str) -> list[Forecast]:
        parsed = self.sdk.messages.parse(
            model=model,
            max_tokens=MAX_TOKENS,
            messages=[{"role": "user", "content": SAYING}],
            output_format=Forecast,
        )
        assert parsed.parsed_output is not None
        return [parsed.parsed_output]

    def refused(self, model: str, *, stream: bool) -> Exception:
        ask = self.stream if stream else self.text
        with pytest.raises(anthropic.APIError) as caught:
            ask(model)
        return caught.value


def _thinking(answer: Message) -> str:
    return "".join(block.thinking for block in answer.content if block.type == "thinking")


class Gemini(Talk):
    name = "google-genai"
    call_in_pieces = False
    tools: ClassVar[Any] = [
        types.Tool(
            function_declarations=[
                types.FunctionDeclaration(name=TOOL, parameters_json_schema=PARAMETERS)
            ]
        )
    ]

    def __init__(self, site: Site, key: str) -> None:
        super().__init__(site, key)
        options = types.HttpOptions(
            base_url=site.gateway,
            client_args={"event_hooks": {"response": [self.watch.see]}},
        )
        self.sdk = genai.Client(api_key=key, http_options=options)

    def close(self) -> None:
        self.sdk.close()

    def _ask(
        self, model: str, contents: Any, config: types.GenerateContentConfig | None = None
    ) -> types.GenerateContentResponse:
        return self.sdk.models.generate_content(model=model, contents=contents, config=config)

    def text(self, model: str) -> Said:
        return _said([self._ask(model, SAYING)])

    def stream(self, model: str) -> Said:
        return self._streamed(model)

    def _streamed(self, model: str, config: types.GenerateContentConfig | None = None) -> Said:
        chunks = self.sdk.models.generate_content_stream(
            model=model, contents=SAYING, config=config
        )
        return _said(list(chunks))

    def _config(self, style: Style | None, *, tools: bool) -> types.GenerateContentConfig:
        thinking = None
        if style == "budget":
            thinking = types.ThinkingConfig(thinking_budget=BUDGET_TOKENS, include_thoughts=True)
        elif style == "effort":
            level = types.ThinkingLevel.MEDIUM
            thinking = types.ThinkingConfig(thinking_level=level, include_thoughts=True)
        return types.GenerateContentConfig(
            tools=self.tools if tools else None,
            thinking_config=thinking,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )

    def call(self, model: str, *, stream: bool) -> Called:
        config = self._config(None, tools=True)
        if not stream:
            return _called([self._ask(model, CALLING, config)])
        chunks = self.sdk.models.generate_content_stream(
            model=model, contents=CALLING, config=config
        )
        return _called(list(chunks))

    def _turns(self, model: str, style: Style | None) -> tuple[Called, Said]:
        config = self._config(style, tools=True)
        said: list[Any] = [types.UserContent(CALLING)]
        answer = self._ask(model, said, config)
        (call,) = answer.function_calls or []
        assert answer.candidates is not None
        returned = types.FunctionResponse(id=call.id, name=call.name, response={"result": RESULT})
        said.append(answer.candidates[0].content)
        said.append(types.UserContent(types.Part(function_response=returned)))
        return _called([answer]), _said([self._ask(model, said, config)])

    def result(self, model: str) -> Said:
        return self._turns(model, None)[1]

    def image(self, model: str, *, url: bool) -> Said:
        image = types.Part.from_bytes(data=PNG, mime_type="image/png")
        if url:
            image = types.Part.from_uri(file_uri=IMAGE_URL, mime_type="image/png")
        return _said([self._ask(model, [image, SAYING])])

    def think(self, model: str, style: Style, *, stream: bool) -> Said:
        config = self._config(style, tools=False)
        if stream:
            return self._streamed(model, config)
        return _said([self._ask(model, SAYING, config)])

    def think_and_call(self, model: str, style: Style) -> tuple[Called, Said]:
        return self._turns(model, style)

    def structured(self, model: str) -> list[Forecast]:
        own = types.GenerateContentConfig(
            response_mime_type="application/json", response_schema=Forecast
        )
        plain = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_json_schema=Forecast.model_json_schema(),
        )
        parsed = self._ask(model, SAYING, own).parsed
        assert isinstance(parsed, Forecast)
        text = self._ask(model, SAYING, plain).text or ""
        return [parsed, Forecast.model_validate_json(text)]

    def refused(self, model: str, *, stream: bool) -> Exception:
        ask = self.stream if stream else self.text
        with pytest.raises(errors.APIError) as caught:
            ask(model)
        return caught.value


def _parts(chunks: list[types.GenerateContentResponse]) -> list[types.Part]:
    return [
        part
        for chunk in chunks
        for candidate in chunk.candidates or []
        if candidate.content is not None
        for part in candidate.content.parts or []
    ]


def _said(chunks: list[types.GenerateContentResponse]) -> Said:
    parts = _parts(chunks)
    ends = [one.finish_reason for chunk in chunks for one in chunk.candidates or []]
    assert ends[-1] == types.FinishReason.STOP
    assert not any(ends[:-1])
    used = chunks[-1].usage_metadata
    assert used is not None
    out = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
    assert used.total_token_count == (used.prompt_token_count or 0) + out
    return Said(
        "".join(part.text or "" for part in parts if not part.thought),
        used.prompt_token_count or 0,
        out,
        "".join(part.text or "" for part in parts if part.thought),
    )


def _called(chunks: list[types.GenerateContentResponse]) -> Called:
    parts = _parts(chunks)
    (call,) = (part.function_call for part in parts if part.function_call is not None)
    thought = "".join(part.text or "" for part in parts if part.thought)
    return Called(call.name or "", call.args, 1, thought)
