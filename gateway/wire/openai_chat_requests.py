"""Reading an OpenAI chat request into the neutral model, and what the format has a place for.

`read_request` takes in what OpenAI documents, the legacy `functions`, and what compatible servers
and their clients add: thoughts in the history (`reasoning_content`, `reasoning`,
`reasoning_details`, Mistral's `thinking` parts), cache markers, documents and videos by URL. A
field that it does not know is named in `Request.unknown`; a part of content or a tool that it does
not know is kept as an `Opaque`. Used by `openai_chat_dialect.py`; pure.

Source: platform.openai.com API reference, "Chat Completions" (2026-11), and recorded traffic.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire import call_ids
from gateway.wire import openai_chat_shapes as shapes
from gateway.wire.conversation import (
    Audio,
    Block,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Role,
    Support,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.openai_chat_thoughts import NAME, read_details, thinking_of

SUPPORT: Mapping[Feature, Support] = {
    "late_system": "yes",
    "message_name": "yes",
    "prefill": "yes",
    "image_data": "yes",
    "image_url": "yes",
    "image_detail": "yes",
    "audio": "yes",
    "document_data": "yes",
    "document_url": "yes",
    "document_text": "yes",
    "file_id": "refused",
    "video": "refused",
    "tools": "yes",
    "custom_tools": "yes",
    "tool_grammar": "yes",
    "provider_tools": "refused",
    "offered_search": "ignored",
    "strict_tools": "yes",
    "tool_choice": "yes",
    "tool_choice_several": "yes",
    "parallel_tool_calls": "yes",
    "tool_result_image": "yes",
    "tool_result_document": "yes",
    "tool_result_error": "yes",
    "json_object": "yes",
    "json_schema": "yes",
    "stop": "yes",
    "temperature": "yes",
    "temperature_above_1": "yes",
    "top_p": "yes",
    "top_k": "yes",
    "seed": "yes",
    "choices": "yes",
    # Asked for they could be, but the neutral answer has no place to bring them back in.
    "logprobs": "refused",
    "logit_bias": "refused",
    "frequency_penalty": "yes",
    "presence_penalty": "yes",
    "max_output_tokens": "yes",
    "reasoning": "yes",
    "thinking_history": "yes",
    "opaque_history": "refused",
    "audio_output": "refused",
    "image_output": "refused",
    "verbosity": "ignored",
    "prediction": "ignored",
    "user": "yes",
    # Allowed with `store` alone, and nothing is stored at the provider.
    "metadata": "ignored",
    "service_tier": "ignored",
    "prompt_cache": "yes",
    "safety_settings": "ignored",
    "store": "ignored",
    "stored_state": "refused",
    "background": "refused",
    "truncation": "ignored",
    "include": "ignored",
    "moderation": "ignored",
}
"""A "yes" may depend on the server (`openai_chat_upstream.py`): `top_k`, cache markers, thoughts in
the history and `user` are told as ignored where it has no place for them; a prefill, a document by
URL and sound of unusual kinds are refused there."""

_BODY = shapes.Reading(shapes.Body)
_MESSAGE = shapes.Reading(shapes.Message)
_PART = shapes.Reading(shapes.Part)
_TOOL = shapes.Reading(shapes.Tool)
_CHOICE = msgspec.json.Decoder(str | shapes.Choice | None)
_FORMAT = shapes.Reading(shapes.ResponseFormat)
_THOUGHTS = msgspec.json.Decoder(str | list[shapes.ThoughtPart])


def read_request(body: bytes, *, model: str | None = None, stream: bool | None = None) -> Request:
    """See `format.Dialect.read_request`."""
    unknown: list[str] = []
    found = _BODY.read(body, "", "", unknown)
    asked = model if model is not None else found.model
    if not asked:
        raise shapes.invalid("model must be a string.", "model")
    if not found.messages:
        raise shapes.invalid("messages must be a list that is not empty.", "messages")
    reader = _Reader(unknown)
    system, messages = reader.messages(found.messages)
    streamed = found.stream if stream is None else stream
    return Request(
        format=NAME,
        model=asked,
        stream=streamed or False,
        system=system,
        messages=messages,
        tools=reader.tools(found),
        tool_choice=reader.tool_choice(found),
        parallel_tool_calls=reader.parallel(found.parallel_tool_calls),
        output=reader.output(found.response_format),
        reasoning=reader.reasoning(found),
        max_output_tokens=reader.limit(found),
        stop=reader.stop(found.stop),
        temperature=found.temperature,
        top_p=found.top_p,
        top_k=found.top_k,
        seed=found.seed if found.seed is not None else found.random_seed,
        choices=found.n or 1,
        top_logprobs=(found.top_logprobs or 0) if found.logprobs else None,
        frequency_penalty=found.frequency_penalty,
        presence_penalty=found.presence_penalty,
        user=found.user or found.safety_identifier,
        metadata=found.metadata or {},
        include_usage=bool(found.stream_options and found.stream_options.include_usage),
        spelled=reader.settings(found),
        unknown=tuple(unknown),
    )


def _is_set(value: object) -> bool:
    return value is not None


_SETTINGS: tuple[tuple[str, Feature, Callable[..., bool]], ...] = (
    ("temperature", "temperature", _is_set),
    ("top_p", "top_p", _is_set),
    ("top_k", "top_k", _is_set),
    ("seed", "seed", _is_set),
    ("random_seed", "seed", _is_set),
    ("frequency_penalty", "frequency_penalty", bool),  # 0 is the default, which many clients send
    ("presence_penalty", "presence_penalty", bool),
    ("logprobs", "logprobs", bool),
    ("user", "user", bool),
    ("safety_identifier", "user", bool),
    ("metadata", "metadata", bool),
    ("logit_bias", "logit_bias", shapes.says),
    ("service_tier", "service_tier", shapes.says),
    ("store", "store", shapes.says),
    ("verbosity", "verbosity", shapes.says),
    ("prediction", "prediction", shapes.says),
    ("audio", "audio_output", shapes.says),
    ("moderation", "moderation", shapes.says),
)


class _Reader:
    """One request being read: which features are in use, and by which of its fields."""

    def __init__(self, unknown: list[str]) -> None:
        self.spelled: dict[Feature, str] = {}
        self._unknown = unknown
        self._open: list[ToolCall] = []  # calls without an id of their own, not answered yet
        self._made = 0

    def _uses(self, feature: Feature, field: str) -> None:
        self.spelled.setdefault(feature, field)

    # Messages.

    def messages(self, raws: list[Raw]) -> tuple[tuple[Block, ...], tuple[Message, ...]]:
        """The leading system text, and all that follows."""
        system: list[Block] = []
        out: list[Message] = []
        final: shapes.Message | None = None
        for number, raw in enumerate(raws):
            at = f"messages[{number}]"
            final = found = _MESSAGE.read(raw, at, "messages.", self._unknown)
            role, blocks = self._message(found, at)
            if found.cache_control is not None and blocks:
                blocks[-1] = self._marked(blocks[-1], found.cache_control, at)
            if role == "system" and not out:
                system += blocks
                continue
            if role == "system":
                self._uses("late_system", f"{at}.role")
            name = found.name if found.role not in ("tool", "function") else None
            if name:
                self._uses("message_name", f"{at}.name")
            out.append(Message(role, tuple(blocks), name or None))
        if final is not None and final.role == "assistant" and not final.tool_calls:
            self._uses("prefill", f"messages[{len(raws) - 1}]")
        return tuple(system), tuple(out)

    def _message(self, found: shapes.Message, at: str) -> tuple[Role, list[Block]]:
        match found.role:
            case "system" | "developer":
                return "system", self._content(found.content, f"{at}.content")
            case "user":
                return "user", self._content(found.content, f"{at}.content")
            case "assistant":
                return "assistant", self._assistant(found, at)
            case "tool" | "function":
                return "user", [self._result(found, at)]
            case role:
                raise shapes.invalid(
                    f"{at}.role is not a role that is known: {role}.", f"{at}.role"
                )

    def _marked(self, block: Block, control: shapes.Cache, at: str) -> Block:
        if not isinstance(block, (Text, Image, Document, ToolResult)):
            return block
        self._uses("prompt_cache", f"{at}.cache_control")
        return msgspec.structs.replace(block, cache=shapes.cache_of(control))

    def _assistant(self, found: shapes.Message, at: str) -> list[Block]:
        blocks: list[Block] = []
        details = (
            read_details(found.reasoning_details) if shapes.sent(found.reasoning_details) else None
        )
        thought = found.reasoning_content or found.reasoning or ""
        thinking = thinking_of(thought, details)
        if thinking is not None:
            self._uses("thinking_history", f"{at}.{shapes.thought_field(found)}")
            blocks.append(thinking)
        if found.content != "":  # beside calls it says nothing, and some formats refuse it
            blocks += self._content(found.content, f"{at}.content")
        if found.refusal:
            blocks.append(Refusal(found.refusal))
        if shapes.sent(found.audio):
            self._uses("opaque_history", f"{at}.audio")
            blocks.append(Opaque(NAME, bytes(found.audio), "audio"))
        blocks += self._calls(found, at)
        return blocks

    def _calls(self, found: shapes.Message, at: str) -> Iterator[ToolCall]:
        self._open = []
        for number, call in enumerate(found.tool_calls or ()):
            if call.custom is not None:
                yield self._call(call.id, call.custom.name, call.custom.input, custom=True)
                continue
            function = call.function
            if function is None or not function.name:
                param = f"{at}.tool_calls[{number}].function.name"
                raise shapes.invalid(f"{param} is missing.", param)
            yield self._call(call.id, function.name, function.arguments or "")
        legacy = found.function_call
        if legacy is not None and legacy.name:
            yield self._call(None, legacy.name, legacy.arguments or "")

    def _call(
        self, call_id: str | None, name: str, arguments: str, *, custom: bool = False
    ) -> ToolCall:
        """A call; without an id (legacy, or Google's empty ones) it gets one, for its result."""
        if call_id:
            return ToolCall(call_id, name, arguments, custom)
        self._made += 1
        call = ToolCall(call_ids.made("", self._made), name, arguments, custom)
        self._open.append(call)
        return call

    def _result(self, found: shapes.Message, at: str) -> ToolResult:
        content = self._content(found.content, f"{at}.content")
        features: Mapping[type, Feature] = {
            Image: "tool_result_image",
            Document: "tool_result_document",
        }
        for block in content:
            feature = features.get(type(block))
            if feature is not None:
                self._uses(feature, f"{at}.content")
        call_id = found.tool_call_id
        if not call_id:
            answered = next((c for c in self._open if found.name in (None, c.name)), None)
            if answered is None:
                raise shapes.invalid(f"{at}.tool_call_id is missing.", f"{at}.tool_call_id")
            self._open.remove(answered)
            call_id = answered.id
        return ToolResult(call_id, tuple(content), found.name or None)

    # Parts of content.

    def _content(self, content: str | list[Raw] | None, at: str) -> list[Block]:
        if content is None:
            return []
        if isinstance(content, str):
            return [Text(content)]
        return [self._part(raw, f"{at}[{number}]") for number, raw in enumerate(content)]

    def _part(self, raw: Raw, at: str) -> Block:
        unknown: list[str] = []
        part = _PART.read(raw, at, "messages.content.", unknown)
        block = self._part_of(raw, part, at)
        if not isinstance(block, Opaque):  # which keeps all its members
            self._tell(unknown)
        return block

    def _tell(self, unknown: list[str]) -> None:
        self._unknown += [field for field in unknown if field not in self._unknown]

    def _part_of(self, raw: Raw, part: shapes.Part, at: str) -> Block:
        cache = part.cache()
        if cache is not None:
            marker = "cache_control" if part.cache_control else "prompt_cache_breakpoint"
            self._uses("prompt_cache", f"{at}.{marker}")
        match part:
            case shapes.Part(type="text", text=str() as text):
                return Text(text, cache)
            case shapes.Part(type="refusal", refusal=str() as refusal):
                return Refusal(refusal)
            case shapes.Part(type="image_url", image_url=(shapes.Url() | str()) as url):
                return self._image(url, cache, f"{at}.image_url")
            case shapes.Part(type="input_audio", input_audio=shapes.Sound() as sound):
                self._uses("audio", f"{at}.input_audio")
                return Audio(f"audio/{sound.format}", sound.data)
            case shapes.Part(type="file", file=shapes.File(file_data=str() as data, filename=name)):
                return self._document(data, name, cache, f"{at}.file.file_data")
            case shapes.Part(type="document_url", document_url=str() as data, document_name=name):
                return self._document(data, name, cache, f"{at}.document_url")
            case shapes.Part(type="thinking"):
                self._uses("thinking_history", f"{at}.thinking")
                thoughts = shapes.decode(_THOUGHTS, part.thinking or b"[]", f"{at}.thinking")
                return Thinking(
                    thoughts
                    if isinstance(thoughts, str)
                    else "".join(thought.text for thought in thoughts)
                )
        return self._other(raw, part, at)

    def _other(self, raw: Raw, part: shapes.Part, at: str) -> Block:
        """A part that only this format knows, or one that lacks what its type promises."""
        kind = part.type
        if kind in ("text", "refusal", "image_url"):
            raise shapes.invalid(f"{at}.{kind} is missing.", f"{at}.{kind}")
        if kind == "file":
            if part.file is None or part.file.file_id is None:
                raise shapes.invalid(f"{at}.file.file_data is missing.", f"{at}.file.file_data")
            self._uses("file_id", f"{at}.file.file_id")
        elif kind == "input_audio":
            # Mistral's is a bare string: base64 or a URL, of a kind that it finds out itself.
            self._uses("opaque_history", f"{at}.input_audio")
        else:
            self._uses("video" if "video" in kind else "opaque_history", f"{at}.type")
        return Opaque(NAME, bytes(raw), kind)

    def _image(self, found: shapes.Url | str, cache: shapes.Lifetime | None, at: str) -> Image:
        url, detail = (found, None) if isinstance(found, str) else (found.url, found.detail)
        if detail not in (None, "auto"):
            self._uses("image_detail", f"{at}.detail")
        if url[:5].lower() == "data:":
            self._uses("image_data", at)
            media_type, data = shapes.data_uri(url, at)
            return Image(media_type, data, detail=detail, cache=cache)
        self._uses("image_url", at)
        return Image(url=url, detail=detail, cache=cache)

    def _document(
        self, data: str, name: str | None, cache: shapes.Lifetime | None, at: str
    ) -> Document:
        start = data[:8].lower()
        if start.startswith(("http://", "https://")):
            self._uses("document_url", at)
            return Document(url=data, name=name, cache=cache)
        self._uses("document_data", at)
        media_type = "application/pdf"  # bare base64 has none; nothing else was taken at first
        if start.startswith("data:"):
            media_type, data = shapes.data_uri(data, at)
        return Document(media_type, data, name=name, cache=cache)

    # Tools.

    def tools(self, found: shapes.Body) -> tuple[Tool, ...]:
        """Tools, legacy functions, and searches that are asked for by a field of their own."""
        tools = [self._tool(raw, f"tools[{n}]") for n, raw in enumerate(found.tools or ())]
        for number, function in enumerate(found.functions or ()):
            self._uses("tools", "functions")
            tools.append(self._function(function, None, f"functions[{number}]"))
        if shapes.sent(found.web_search_options):
            self._uses("provider_tools", "web_search_options")
            opaque = Opaque(NAME, bytes(found.web_search_options), "web_search_options")
            tools.append(Tool("web_search_options", opaque=opaque))
        return tuple(tools)

    def _tool(self, raw: Raw, at: str) -> Tool:
        unknown: list[str] = []
        tool = _TOOL.read(raw, at, "tools.", unknown)
        if tool.function is not None or tool.custom is not None:
            self._tell(unknown)
        if tool.function is not None and tool.type in (None, "function"):
            self._uses("tools", "tools")
            if tool.cache_control is not None:
                self._uses("prompt_cache", f"{at}.cache_control")
            return self._function(
                tool.function, shapes.cache_of(tool.cache_control), f"{at}.function"
            )
        if tool.custom is not None and tool.type == "custom":
            self._uses("tools", "tools")
            self._uses("custom_tools", at)
            grammar = tool.custom.format.grammar if tool.custom.format else None
            if grammar:
                self._uses("tool_grammar", f"{at}.custom.format")
            return Tool(
                tool.custom.name,
                tool.custom.description,
                custom=True,
                grammar=(grammar.syntax, grammar.definition) if grammar else None,
            )
        if tool.type in (None, "function", "custom"):
            raise shapes.invalid(f"{at}.function is missing.", f"{at}.function")
        self._uses("provider_tools", at)
        return Tool(tool.type, opaque=Opaque(NAME, bytes(raw), tool.type))

    def _function(
        self, function: shapes.LegacyFunction, cache: shapes.Lifetime | None, at: str
    ) -> Tool:
        schema = bytes(function.parameters) if shapes.sent(function.parameters) else None
        if schema is not None and not schema.startswith(b"{"):
            raise shapes.invalid(f"{at}.parameters must be an object.", f"{at}.parameters")
        if function.strict:
            self._uses("strict_tools", f"{at}.strict")
        return Tool(function.name, function.description, schema, function.strict, cache=cache)

    def tool_choice(self, found: shapes.Body) -> ToolChoice | None:
        """`tool_choice`, or the legacy `function_call`."""
        field = "tool_choice" if shapes.sent(found.tool_choice) else "function_call"
        raw = found.tool_choice if shapes.sent(found.tool_choice) else found.function_call
        if not shapes.sent(raw):
            return None
        choice = shapes.choice_of(shapes.decode(_CHOICE, raw, field), field)
        if choice != ToolChoice("auto"):
            self._uses("tool_choice", field)
        if len(choice.names) > 1 or (choice.names and choice.mode == "auto"):
            self._uses("tool_choice_several", field)
        return choice

    def parallel(self, parallel: bool | None) -> bool | None:
        """`parallel_tool_calls`; only False asks for anything."""
        if parallel is False:
            self._uses("parallel_tool_calls", "parallel_tool_calls")
        return parallel

    # Settings.

    def output(self, raw: Raw) -> OutputFormat | None:
        """`response_format`; None for plain text."""
        field = "response_format"
        found = _FORMAT.read(raw, field, f"{field}.", self._unknown) if shapes.sent(raw) else None
        if found is None or found.type == "text":
            return None
        if found.type == "json_object":
            self._uses("json_object", "response_format")
            return OutputFormat()
        schema = found.json_schema
        if found.type != "json_schema":
            raise GatewayError(
                "unsupported_parameter",
                f"response_format of the type {found.type} cannot be expressed in another format.",
                param="response_format.type",
            )
        if schema is None:
            param = "response_format.json_schema"
            raise shapes.invalid(f"{param} is missing.", param)
        if not shapes.sent(schema.schema):
            self._uses("json_object", "response_format")
            return OutputFormat(None, schema.name, schema.description, schema.strict)
        self._uses("json_schema", "response_format")
        return OutputFormat(bytes(schema.schema), schema.name, schema.description, schema.strict)

    def reasoning(self, found: shapes.Body) -> Reasoning | None:
        """How much to think, in whichever of its spellings; OpenAI's own first."""
        effort, budget, show, field = shapes.reasoning_of(found)
        if field is None:
            return None
        self._uses("reasoning", field)
        if effort is not None and effort not in shapes.EFFORTS:
            raise shapes.invalid(f"{field} is not an effort that is known: {effort}.", field)
        return Reasoning(shapes.EFFORTS[effort] if effort else None, budget, show)

    def limit(self, found: shapes.Body) -> int | None:
        """The limit on output; the newer name wins."""
        if found.max_completion_tokens is not None:
            self._uses("max_output_tokens", "max_completion_tokens")
            return found.max_completion_tokens
        if found.max_tokens is not None:
            self._uses("max_output_tokens", "max_tokens")
        return found.max_tokens

    def stop(self, stop: str | list[str] | None) -> tuple[str, ...]:
        """Stop sequences; an empty list asks for nothing."""
        found = (stop,) if isinstance(stop, str) else tuple(stop or ())
        found = tuple(one for one in found if one)
        if found:
            self._uses("stop", "stop")
        return found

    def settings(self, found: shapes.Body) -> dict[Feature, str]:
        """Note every setting in use; called last."""
        for field, feature, in_use in _SETTINGS:
            if in_use(getattr(found, field)):
                self._uses(feature, field)
        if found.temperature is not None and found.temperature > 1:
            self._uses("temperature_above_1", "temperature")
        if (found.n or 1) > 1:
            self._uses("choices", "n")
        modalities = found.modalities or ()
        if "audio" in modalities:
            self._uses("audio_output", "modalities")
        if "image" in modalities:
            self._uses("image_output", "modalities")
        return self.spelled
