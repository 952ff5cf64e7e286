"""The `openai` package as two of the matrix's callers: chat completions and Responses."""

import base64
from typing import Any, ClassVar

import openai
import orjson
import pytest
from client_site import Site
from every_model_talk import (
    CALLING,
    EFFORT,
    IMAGE_URL,
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
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.responses import Response

DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


class _OpenAI(Talk):
    def __init__(self, site: Site, key: str) -> None:
        super().__init__(site, key)
        http = openai.DefaultHttpxClient(event_hooks={"response": [self.watch.see]})
        self.sdk = OpenAI(
            base_url=f"{site.gateway}/v1", api_key=key, http_client=http, max_retries=0
        )

    def close(self) -> None:
        self.sdk.close()


class Chat(_OpenAI):
    name = "openai: chat completions"
    tools: ClassVar[Any] = [
        {"type": "function", "function": {"name": TOOL, "parameters": PARAMETERS}}
    ]

    def _ask(self, model: str, content: Any, **more: Any) -> ChatCompletion:
        messages: Any = [{"role": "user", "content": content}]
        answer = self.sdk.chat.completions.create(model=model, messages=messages, **more)
        assert isinstance(answer, ChatCompletion)
        return answer

    def text(self, model: str) -> Said:
        answer = self._ask(model, SAYING)
        assert answer.choices[0].finish_reason == "stop"
        return self._said(answer)

    def _said(self, answer: ChatCompletion) -> Said:
        message, used = answer.choices[0].message, answer.usage
        assert used is not None
        assert used.total_tokens == used.prompt_tokens + used.completion_tokens
        return Said(
            message.content or "", used.prompt_tokens, used.completion_tokens, _thought(message)
        )

    def stream(self, model: str) -> Said:
        return self._streamed(model, SAYING)

    def _streamed(self, model: str, content: str, **more: Any) -> Said:
        said, thought, used, finish = "", "", None, None
        with self.sdk.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            stream=True,
            stream_options={"include_usage": True},
            **more,
        ) as chunks:
            for chunk in chunks:
                used = chunk.usage or used
                for choice in chunk.choices:
                    assert finish is None
                    said += choice.delta.content or ""
                    thought += _thought(choice.delta)
                    finish = choice.finish_reason
        assert finish == "stop"
        assert used is not None
        return Said(said, used.prompt_tokens, used.completion_tokens, thought)

    def call(self, model: str, *, stream: bool) -> Called:
        if not stream:
            answer = self._ask(model, CALLING, tools=self.tools)
            assert answer.choices[0].finish_reason == "tool_calls"
            return self._called(answer.choices[0].message)
        pieces = 0
        with self.sdk.chat.completions.stream(
            model=model, messages=[{"role": "user", "content": CALLING}], tools=self.tools
        ) as events:
            for event in events:
                if event.type == "tool_calls.function.arguments.delta":
                    pieces += bool(event.arguments_delta)
            final = events.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        return self._called(final.message, pieces)

    def _called(self, message: ChatCompletionMessage, pieces: int = 1) -> Called:
        (call,) = message.tool_calls or []
        assert call.type == "function"
        arguments = orjson.loads(call.function.arguments)
        return Called(call.function.name, arguments, pieces, _thought(message))

    def _turns(self, model: str, **more: Any) -> tuple[Called, Said]:
        message = self._ask(model, CALLING, tools=self.tools, **more).choices[0].message
        (call,) = message.tool_calls or []
        messages: Any = [
            {"role": "user", "content": CALLING},
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": RESULT},
        ]
        last = self.sdk.chat.completions.create(
            model=model, messages=messages, tools=self.tools, **more
        )
        return self._called(message), self._said(last)

    def result(self, model: str) -> Said:
        return self._turns(model)[1]

    def image(self, model: str, *, url: bool) -> Said:
        image = {"type": "image_url", "image_url": {"url": IMAGE_URL if url else DATA_URL}}
        return self._said(self._ask(model, [{"type": "text", "text": SAYING}, image]))

    def _thinking(self, model: str) -> dict[str, Any]:
        if model.startswith("kimi"):
            # What this server's own guide says to send with this SDK.
            return {"extra_body": {"thinking": {"type": "enabled"}}}
        return {"reasoning_effort": EFFORT}

    def think(self, model: str, style: Style, *, stream: bool) -> Said:
        if stream:
            return self._streamed(model, SAYING, **self._thinking(model))
        return self._said(self._ask(model, SAYING, **self._thinking(model)))

    def think_and_call(self, model: str, style: Style) -> tuple[Called, Said]:
        return self._turns(model, **self._thinking(model))

    def structured(self, model: str) -> list[Forecast]:
        parsed = self.sdk.chat.completions.parse(
            model=model,
            messages=[{"role": "user", "content": SAYING}],
            response_format=Forecast,
        )
        found = parsed.choices[0].message.parsed
        assert found is not None
        return [found]

    def refused(self, model: str, *, stream: bool) -> Exception:
        ask = self._streamed if stream else self._ask
        with pytest.raises(openai.APIError) as caught:
            ask(model, SAYING)
        return caught.value


def _thought(message: Any) -> str:
    """Where servers that show their thoughts in chat do; the SDK keeps what it does not know."""
    return getattr(message, "reasoning_content", None) or ""


class Responses(_OpenAI):
    name = "openai: Responses"
    tools: ClassVar[Any] = [
        {"type": "function", "name": TOOL, "parameters": PARAMETERS, "strict": False}
    ]
    thinking: ClassVar[Any] = {"effort": EFFORT, "summary": "auto"}

    def text(self, model: str) -> Said:
        return self._said(self.sdk.responses.create(model=model, input=SAYING))

    def _said(self, answer: Response) -> Said:
        assert answer.status == "completed"
        used = answer.usage
        assert used is not None
        assert used.total_tokens == used.input_tokens + used.output_tokens
        return Said(answer.output_text, used.input_tokens, used.output_tokens, _summary(answer))

    def stream(self, model: str) -> Said:
        return self._streamed(model)

    def _streamed(self, model: str, **more: Any) -> Said:
        said, thought, numbers = "", "", []
        with self.sdk.responses.stream(model=model, input=SAYING, **more) as events:
            for event in events:
                numbers.append(event.sequence_number)
                if event.type == "response.output_text.delta":
                    said += event.delta
                elif event.type == "response.reasoning_summary_text.delta":
                    thought += event.delta
            final: Any = events.get_final_response()
        assert numbers == list(range(len(numbers)))
        whole = self._said(final)
        assert (said, thought) == (whole.text, whole.thought)
        return whole

    def call(self, model: str, *, stream: bool) -> Called:
        if not stream:
            answer = self.sdk.responses.create(model=model, input=CALLING, tools=self.tools)
            return self._called(answer)
        pieces = 0
        with self.sdk.responses.stream(model=model, input=CALLING, tools=self.tools) as events:
            for event in events:
                if event.type == "response.function_call_arguments.delta":
                    pieces += bool(event.delta)
            final: Any = events.get_final_response()
        return self._called(final, pieces)

    def _called(self, answer: Response, pieces: int = 1) -> Called:
        (call,) = (item for item in answer.output if item.type == "function_call")
        return Called(call.name, orjson.loads(call.arguments), pieces, _summary(answer))

    def _turns(self, model: str, **more: Any) -> tuple[Called, Said]:
        said: Any = [{"role": "user", "content": CALLING}]
        answer = self.sdk.responses.create(
            model=model, input=said, tools=self.tools, store=False, **more
        )
        (call,) = (item for item in answer.output if item.type == "function_call")
        said += [item.model_dump(exclude_none=True, mode="json") for item in answer.output]
        said.append({"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
        last = self.sdk.responses.create(
            model=model, input=said, tools=self.tools, store=False, **more
        )
        return self._called(answer), self._said(last)

    def result(self, model: str) -> Said:
        return self._turns(model)[1]

    def image(self, model: str, *, url: bool) -> Said:
        image = {"type": "input_image", "image_url": IMAGE_URL if url else DATA_URL}
        content = [{"type": "input_text", "text": SAYING}, image]
        asked: Any = [{"role": "user", "content": content}]
        return self._said(self.sdk.responses.create(model=model, input=asked))

    def think(self, model: str, style: Style, *, stream: bool) -> Said:
        if stream:
            return self._streamed(model, reasoning=self.thinking)
        return self._said(
            self.sdk.responses.create(model=model, input=SAYING, reasoning=self.thinking)
        )

    def think_and_call(self, model: str, style: Style) -> tuple[Called, Said]:
        return self._turns(model, reasoning=self.thinking, include=["reasoning.encrypted_content"])

    def structured(self, model: str) -> list[Forecast]:
        parsed = self.sdk.responses.parse(model=model, input=SAYING, text_format=Forecast)
        assert parsed.output_parsed is not None
        return [parsed.output_parsed]

    def refused(self, model: str, *, stream: bool) -> Exception:
        if not stream:
            with pytest.raises(openai.APIError) as caught:
                self.text(model)
            return caught.value
        # A failure after the response was created is told by its last event, and raises nothing.
        with self.sdk.responses.create(model=model, input=SAYING, stream=True) as events:
            *_, last = events
        assert last.type == "response.failed"
        assert last.response.status == "failed"
        assert last.response.error is not None
        return RuntimeError(last.response.error.message)


def _summary(answer: Response) -> str:
    return "".join(
        part.text for item in answer.output if item.type == "reasoning" for part in item.summary
    )
