"""Four unmodified SDKs, each calling a model behind a provider of each format.

Text, streams, a tool call, its result, usage and errors: what the SDK shows is what the model said,
and the receipt says by whom and what was counted.
"""

from typing import Any

import anthropic
import openai
import orjson
import pytest
from anthropic import Anthropic
from client_site import Caller, Site
from google import genai
from google.genai import types
from openai import OpenAI

pytestmark = pytest.mark.clients

SAYING = "Grüße aus Köln 🙂"
SAID = f'You said: "{SAYING}".'
CALLING = "Use get_forecast for Köln"
ARGUMENTS = {"city": "demo city", "days": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
RESULT = "sunny, 21 degrees"
MODELS = {
    "gpt-4o": "openai",
    "claude-opus-4-5": "anthropic",
    "gemini-2.5-pro": "google",
}


class Talk:
    """One SDK: what it was told in the shape that all tests compare."""

    def __init__(self, site: Site, key: str) -> None:
        self.site = site
        self.key = key

    def say(self, model: str, text: str) -> tuple[str, int, int]:
        """The answer's text, and tokens in and out."""
        raise NotImplementedError

    def stream(self, model: str, text: str) -> str:
        raise NotImplementedError

    def call(self, model: str) -> tuple[str, Any, str]:
        """The name and arguments of the call, and what is said once it has its result."""
        raise NotImplementedError


class Chat(Talk):
    def _sdk(self) -> OpenAI:
        return OpenAI(base_url=f"{self.site.gateway}/v1", api_key=self.key)

    def say(self, model: str, text: str) -> tuple[str, int, int]:
        with self._sdk() as sdk:
            answer = sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}]
            )
        assert answer.usage is not None
        assert answer.choices[0].finish_reason == "stop"
        said = answer.choices[0].message.content or ""
        return said, answer.usage.prompt_tokens, answer.usage.completion_tokens

    def stream(self, model: str, text: str) -> str:
        said = ""
        with self._sdk() as sdk:
            for chunk in sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], stream=True
            ):
                for choice in chunk.choices:
                    said += choice.delta.content or ""
        return said

    def call(self, model: str) -> tuple[str, Any, str]:
        tools: Any = [
            {"type": "function", "function": {"name": "get_forecast", "parameters": SCHEMA}}
        ]
        messages: list[Any] = [{"role": "user", "content": CALLING}]
        with self._sdk() as sdk:
            answer = sdk.chat.completions.create(model=model, messages=messages, tools=tools)
            assert answer.choices[0].finish_reason == "tool_calls"
            message = answer.choices[0].message
            (call,) = message.tool_calls or []
            assert call.type == "function"
            messages += [
                message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": RESULT},
            ]
            last = sdk.chat.completions.create(model=model, messages=messages, tools=tools)
        arguments = orjson.loads(call.function.arguments)
        return call.function.name, arguments, last.choices[0].message.content or ""


class Responses(Talk):
    def _sdk(self) -> OpenAI:
        return OpenAI(base_url=f"{self.site.gateway}/v1", api_key=self.key)

    def say(self, model: str, text: str) -> tuple[str, int, int]:
        with self._sdk() as sdk:
            answer = sdk.responses.create(model=model, input=text)
        assert answer.usage is not None
        assert answer.status == "completed"
        return answer.output_text, answer.usage.input_tokens, answer.usage.output_tokens

    def stream(self, model: str, text: str) -> str:
        said, numbers, last = "", [], ""
        with self._sdk() as sdk:
            for event in sdk.responses.create(model=model, input=text, stream=True):
                numbers.append(event.sequence_number)
                last = event.type
                if event.type == "response.output_text.delta":
                    said += event.delta
        assert numbers == list(range(len(numbers)))
        assert last == "response.completed"
        return said

    def call(self, model: str) -> tuple[str, Any, str]:
        tools: Any = [
            {"type": "function", "name": "get_forecast", "parameters": SCHEMA, "strict": False}
        ]
        said: list[Any] = [{"role": "user", "content": CALLING}]
        with self._sdk() as sdk:
            answer = sdk.responses.create(model=model, input=said, tools=tools)
            (call,) = (item for item in answer.output if item.type == "function_call")
            said += [
                {
                    "type": "function_call",
                    "call_id": call.call_id,
                    "name": call.name,
                    "arguments": call.arguments,
                },
                {"type": "function_call_output", "call_id": call.call_id, "output": RESULT},
            ]
            last = sdk.responses.create(model=model, input=said, tools=tools)
        return call.name, orjson.loads(call.arguments), last.output_text


class Messages(Talk):
    def _sdk(self) -> Anthropic:
        return Anthropic(base_url=self.site.gateway, api_key=self.key)

    def say(self, model: str, text: str) -> tuple[str, int, int]:
        with self._sdk() as sdk:
            answer = sdk.messages.create(
                model=model, max_tokens=500, messages=[{"role": "user", "content": text}]
            )
        assert answer.stop_reason == "end_turn"
        said = "".join(block.text for block in answer.content if block.type == "text")
        return said, answer.usage.input_tokens, answer.usage.output_tokens

    def stream(self, model: str, text: str) -> str:
        with (
            self._sdk() as sdk,
            sdk.messages.stream(
                model=model, max_tokens=500, messages=[{"role": "user", "content": text}]
            ) as events,
        ):
            said = "".join(events.text_stream)
            assert events.get_final_message().stop_reason == "end_turn"
        return said

    def call(self, model: str) -> tuple[str, Any, str]:
        tools: Any = [{"name": "get_forecast", "input_schema": SCHEMA}]
        messages: list[Any] = [{"role": "user", "content": CALLING}]
        with self._sdk() as sdk:
            answer = sdk.messages.create(
                model=model, max_tokens=500, messages=messages, tools=tools
            )
            assert answer.stop_reason == "tool_use"
            (call,) = (block for block in answer.content if block.type == "tool_use")
            result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
            messages += [
                {"role": "assistant", "content": answer.content},
                {"role": "user", "content": [result]},
            ]
            last = sdk.messages.create(model=model, max_tokens=500, messages=messages, tools=tools)
        said = "".join(block.text for block in last.content if block.type == "text")
        return call.name, call.input, said


class Gemini(Talk):
    def _sdk(self) -> genai.Client:
        options = types.HttpOptions(base_url=self.site.gateway)
        return genai.Client(api_key=self.key, http_options=options)

    def say(self, model: str, text: str) -> tuple[str, int, int]:
        with self._sdk() as sdk:
            answer = sdk.models.generate_content(model=model, contents=text)
        used = answer.usage_metadata
        assert used is not None
        out = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
        return answer.text or "", used.prompt_token_count or 0, out

    def stream(self, model: str, text: str) -> str:
        with self._sdk() as sdk:
            chunks = sdk.models.generate_content_stream(model=model, contents=text)
            return "".join(chunk.text or "" for chunk in chunks)

    def call(self, model: str) -> tuple[str, Any, str]:
        declared = types.FunctionDeclaration(name="get_forecast", parameters_json_schema=SCHEMA)
        config = types.GenerateContentConfig(
            tools=[types.Tool(function_declarations=[declared])],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        said: list[Any] = [types.UserContent(CALLING)]
        with self._sdk() as sdk:
            answer = sdk.models.generate_content(model=model, contents=said, config=config)
            (call,) = answer.function_calls or []
            assert answer.candidates is not None
            result = types.Part(
                function_response=types.FunctionResponse(
                    id=call.id, name=call.name, response={"result": RESULT}
                )
            )
            said += [answer.candidates[0].content, types.UserContent(result)]
            last = sdk.models.generate_content(model=model, contents=said, config=config)
        return call.name or "", call.args, last.text or ""


SDKS: dict[str, type[Talk]] = {
    "openai chat": Chat,
    "openai responses": Responses,
    "anthropic": Messages,
    "google-genai": Gemini,
}


@pytest.fixture(params=SDKS)
def talk(request: pytest.FixtureRequest, site: Site, gateway_key: Caller) -> Talk:
    return SDKS[request.param](site, gateway_key.key)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_answers_whatever_format_its_caller_speaks(
    talk: Talk, model: str, site: Site, gateway_key: Caller
) -> None:
    said, tokens_in, tokens_out = talk.say(model, SAYING)
    assert said.startswith(SAID)
    receipt = site.receipt(site.newest(gateway_key), gateway_key)
    assert receipt["route"]["provider"] == MODELS[model]
    assert receipt["status"] == "succeeded"
    assert receipt["usage"]["input_tokens"] == tokens_in > 0
    assert receipt["usage"]["output_tokens"] == tokens_out > 0
    assert receipt["cost"]["nano_usd"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_says_the_same(talk: Talk, model: str) -> None:
    assert talk.stream(model, SAYING).startswith(SAID)


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_and_its_result_taken_back(talk: Talk, model: str) -> None:
    name, arguments, said = talk.call(model)
    assert (name, arguments) == ("get_forecast", ARGUMENTS)
    assert RESULT in said


@pytest.mark.parametrize("model", MODELS)
def test_an_error_of_the_provider_is_one_of_the_callers_format(
    site: Site, gateway_key: Caller, model: str
) -> None:
    at_provider = f"{MODELS[model]}/{model}+status=400"
    with (
        Anthropic(base_url=site.gateway, api_key=gateway_key.key, max_retries=0) as messages,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        messages.messages.create(
            model=at_provider, max_tokens=5, messages=[{"role": "user", "content": "?"}]
        )
    assert caught.value.status_code == 400
    with (
        OpenAI(base_url=f"{site.gateway}/v1", api_key=gateway_key.key, max_retries=0) as chat,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        chat.chat.completions.create(model=at_provider, messages=[{"role": "user", "content": "?"}])
    assert refused.value.status_code == 400
