"""Writing an OpenAI chat request for a server, from the neutral model.

Compatible servers differ in details: `openai_chat_servers.py`. Used by `openai_chat_dialect.py`;
pure.

How what chat has no exact place for is written: an error of a tool as text that begins with
"Error: "; images and documents in a tool's result in a user message after the results; a plain-text
document as text under its name; a budget for thoughts as the nearest effort.
"""

import re
from collections.abc import Iterable
from typing import Literal, assert_never

import orjson

from gateway.errors import GatewayError
from gateway.wire import custom_tools
from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Document,
    Effort,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.wire.format import Toward
from gateway.wire.openai_chat_servers import (
    PLAIN_EFFORTS,
    Ids,
    effort_of,
    efforts_of,
    nearest,
    server_of,
    takes_custom_tools,
)
from gateway.wire.openai_chat_thoughts import NAME, SEPARATOR, own_details
from gateway.wire.output_schemas import for_openai

_Object = dict[str, object]

_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_SCHEMA_NAME_CHARS_MAX = 64


def write_request(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """See `format.Dialect.write_request`."""
    request, told = for_openai(request)
    writer = _Writer(request, toward)
    body: _Object = {"model": toward.model, "messages": writer.messages()}
    if request.stream:
        body["stream"] = True
        if writer.server.stream_options:
            body["stream_options"] = {"include_usage": True}
    writer.tools(body)
    writer.sampling(body)
    writer.reasoning(body, request.reasoning)
    if request.output is not None:
        body["response_format"] = _response_format(request.output)
    return orjson.dumps(body), writer.ignored + told


class _Writer:
    """One request being written; `ignored` are the caller's fields that were left out."""

    def __init__(self, request: Request, toward: Toward) -> None:
        self.server = server_of(toward.provider)
        self._custom = takes_custom_tools(self.server, toward.model)
        self.ignored: list[str] = []
        self._request = request
        self._toward = toward
        self._id = Ids(self.server.ids)

    def _field(self, feature: Feature, otherwise: str) -> str:
        return self._request.spelled.get(feature, otherwise)

    def _ignore(self, feature: Feature, otherwise: str) -> None:
        field = self._field(feature, otherwise)
        if field not in self.ignored:
            self.ignored.append(field)

    def _refuse(self, what: str, feature: Feature, otherwise: str = "messages") -> GatewayError:
        return GatewayError(
            "unsupported_parameter",
            f"{what} cannot be expressed in the {NAME} format of this model's provider",
            param=self._field(feature, otherwise),
        )

    # Messages.

    def messages(self) -> list[_Object]:
        """All messages, system text first."""
        request = self._request
        out: list[_Object] = []
        if request.system:
            out.append({"role": "system", "content": self._content(request.system, "system")})
        run: list[Message] = []
        for message in request.messages:
            if run and message.role != run[0].role:
                out += self._run(run)
                run = []
            run.append(message)
        if run:
            out += self._run(run)
        self._begun(out)
        return out

    def _begun(self, out: list[_Object]) -> None:
        """Mark a last message that the model is to go on with, where another format asks so."""
        request = self._request
        if "prefill" not in request.spelled or request.format == NAME:
            return
        if self.server.prefill is None:
            raise self._refuse("An answer that is begun by the caller", "prefill")
        if self.server.prefill:
            out[-1][self.server.prefill] = True

    def _run(self, run: list[Message]) -> Iterable[_Object]:
        """Neighbours of one role."""
        match run[0].role:
            case "system":
                for message in run:
                    yield self._named(message, "system", self._content(message.content, "system"))
            case "user":
                yield from self._user(run)
            case "assistant":
                yield from self._assistants(run)
            case role:
                assert_never(role)

    def _named(self, message: Message, role: str, content: object) -> _Object:
        written: _Object = {"role": role, "content": content}
        if message.name:
            written["name"] = message.name
        return written

    def _user(self, run: list[Message]) -> Iterable[_Object]:
        """Results first: they must follow the calls at once."""
        beside: list[Block] = []
        for message in run:
            for block in message.content:
                if isinstance(block, ToolResult):
                    yield self._result(block, beside)
        if beside:
            yield {"role": "user", "content": self._content(beside, "user")}
        for message in run:
            content = [one for one in message.content if not isinstance(one, ToolResult)]
            if content or not message.content:
                yield self._named(message, "user", self._content(content, "user"))

    def _result(self, result: ToolResult, beside: list[Block]) -> _Object:
        """A result as text; what is no text is added to `beside`, a user message after it."""
        texts = []
        shown = 0
        for block in result.content:
            match block:
                case Text(text=text):
                    texts.append(text)
                case Document(text=str()):
                    texts.append(_document_text(block))
                case Image() | Document():
                    shown += 1
                    beside.append(block)
                case _:
                    raise self._refuse(f"{_kind(block)} in a tool's result", "opaque_history")
        if shown:
            beside.insert(len(beside) - shown, Text(f"Returned by the tool call {result.call_id}:"))
            texts = texts or ["(see the next user message)"]
        text = "\n".join(texts)
        if result.is_error and not text.lower().startswith("error"):
            text = f"Error: {text}"
        content: object = text
        if result.cache is not None and self._marks():
            content = [{"type": "text", "text": text, "cache_control": _control(result.cache)}]
        return {"role": "tool", "tool_call_id": self._id(result.call_id), "content": content}

    def _assistants(self, run: list[Message]) -> Iterable[_Object]:
        """One message where there are calls: all results of a turn follow a single message."""
        calls = any(isinstance(block, ToolCall) for message in run for block in message.content)
        if not calls:
            for message in run:
                yield self._assistant([message])
        else:
            yield self._assistant(run)

    def _assistant(self, run: list[Message]) -> _Object:
        written: _Object = {"role": "assistant", "content": None}
        # Texts of one message belong together as they are; those of several are told apart.
        texts = ["".join(map(self._text, message.content)) for message in run]
        texts = [text for text in texts if text]
        for message in run:
            if message.name:
                written["name"] = message.name
        blocks = [block for message in run for block in message.content]
        self._thoughts([one for one in blocks if isinstance(one, Thinking)], written)
        refusals = [one.text for one in blocks if isinstance(one, Refusal)]
        if refusals and self.server.refusals:
            written["refusal"] = "".join(refusals)
        else:
            texts += refusals
        for block in blocks:
            if not isinstance(block, (Text, Refusal, Thinking, ToolCall)):
                self._rare(block, written)
        calls = [self._call(one) for one in blocks if isinstance(one, ToolCall)]
        if texts or not (calls or "refusal" in written or "audio" in written):
            written["content"] = SEPARATOR.join(texts)
        if calls:
            written["tool_calls"] = calls
        return written

    def _text(self, block: Block) -> str:
        """The text of a block in an assistant's message, which has no place for a marker."""
        if not isinstance(block, Text):
            return ""
        self._foreign(block)
        if block.cache is not None:
            self._ignore("prompt_cache", "cache_control")
        return block.text

    def _rare(self, block: Block, written: _Object) -> None:
        """What an assistant's message hardly ever holds."""
        match block:
            case Opaque(format="openai_chat", kind="audio", json=raw):
                written["audio"] = orjson.Fragment(raw)
            case Citation():
                self._ignore("opaque_history", "citations")
            case Image() | Document() | Audio():
                feature: Feature = "image_data" if isinstance(block, Image) else "document_data"
                raise self._refuse(f"{_kind(block)} in an assistant's message", feature)
            case _:
                raise self._refuse(f"{_kind(block)} in an assistant's message", "opaque_history")

    def _thoughts(self, thoughts: list[Thinking], written: _Object) -> None:
        """Thoughts go back where the server takes them: this format's own, and unsigned ones."""
        texts = []
        for thought in thoughts:
            details = own_details(thought.signature)
            own = thought.signature is None or details is not None
            if not own or self.server.thoughts is None:
                self._ignore("thinking_history", "messages")
                continue
            if thought.text:
                texts.append(thought.text)
            if details is not None and self.server.details:
                written["reasoning_details"] = details
            elif not thought.text:
                self._ignore("thinking_history", "messages")
        if texts and self.server.thoughts is not None:
            written[self.server.thoughts] = SEPARATOR.join(texts)

    def _call(self, call: ToolCall) -> _Object:
        self._foreign(call)
        written: _Object = {"id": self._id(call.id), "type": "function"}
        if call.custom and not self._custom:
            call = custom_tools.as_arguments(call)
        if call.custom:
            written["type"] = "custom"
            written["custom"] = {"name": call.name, "input": call.arguments}
        else:
            written["function"] = {"name": call.name, "arguments": call.arguments or "{}"}
        return written

    def _foreign(self, block: Text | ToolCall) -> None:
        """A signature on text or a call is another format's: left out, and told."""
        if block.signature is not None:
            self._ignore("thinking_history", "messages")

    # Content.

    def _content(self, blocks: Iterable[Block], role: str) -> object:
        """A string where it is one text, else a list of parts."""
        parts = [self._part(block, role) for block in blocks]
        if not parts:
            return ""
        only = parts[0]
        if len(parts) == 1 and isinstance(only, dict) and only.keys() == {"type", "text"}:
            return only["text"]
        return parts

    def _part(self, block: Block, role: str) -> object:
        match block:
            case Text():
                self._foreign(block)
                return self._cached({"type": "text", "text": block.text}, block.cache)
            case Refusal():
                return {"type": "text", "text": block.text}
            case Image() if role == "user":
                return self._cached(_image(block), block.cache)
            case Document(text=str()):
                return self._cached({"type": "text", "text": _document_text(block)}, block.cache)
            case Document() if role == "user":
                return self._cached(self._document(block), block.cache)
            case Audio() if role == "user":
                return self._audio(block)
            case Opaque(format="openai_chat", json=raw):
                return orjson.Fragment(raw)
        raise self._refuse(f"{_kind(block)} in a message of the role {role}", "opaque_history")

    def _marks(self) -> bool:
        """Whether the server takes cache markers; tells so where it does not."""
        if not self.server.cache_control:
            self._ignore("prompt_cache", "cache_control")
        return self.server.cache_control

    def _cached(self, part: _Object, cache: Literal["5m", "1h"] | None) -> _Object:
        if cache is not None and self._marks():
            part["cache_control"] = _control(cache)
        return part

    def _document(self, document: Document) -> _Object:
        if document.url is None:
            file = {
                "filename": document.name or _file_name(document.media_type),
                "file_data": f"data:{document.media_type or 'application/pdf'};base64,"
                f"{document.data or ''}",
            }
            return {"type": "file", "file": file}
        if self.server.document_url == "document_url":
            named = {"document_name": document.name} if document.name else {}
            return {"type": "document_url", "document_url": document.url, **named}
        if self.server.document_url == "file":
            name = document.name or document.url.rsplit("/", 1)[-1] or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": document.url}}
        raise self._refuse("A document by URL", "document_url")

    def _audio(self, audio: Audio) -> _Object:
        subtype = audio.media_type.partition("/")[2].partition(";")[0]
        kind = _SOUNDS.get(subtype, subtype)
        if self.server.audio is not None and kind not in self.server.audio:
            raise self._refuse(f"Sound of the type {audio.media_type}", "audio")
        return {"type": "input_audio", "input_audio": {"data": audio.data, "format": kind}}

    # Tools.

    def tools(self, body: _Object) -> None:
        """Tools and all that is said of them."""
        request = self._request
        choice = request.tool_choice
        tools = list(request.tools)
        narrowed = choice is not None and (
            len(choice.names) > 1 or (choice.mode == "auto" and bool(choice.names))
        )
        if choice is not None and narrowed and not self.server.allowed_tools:
            # The same in effect: no other tool is there to be called.
            tools = [tool for tool in tools if tool.name in choice.names]
        written = []
        for tool in tools:
            if tool.opaque is not None and tool.opaque.kind == "web_search_options":
                body["web_search_options"] = orjson.Fragment(tool.opaque.json)
            elif not tool.search:
                written.append(self._tool(tool))
        if not written:
            return
        body["tools"] = written
        if choice is not None:
            body["tool_choice"] = self._choice(choice.mode, choice.names)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls

    def _tool(self, tool: Tool) -> object:
        if tool.opaque is not None:
            if tool.opaque.format != NAME:
                raise self._refuse(f"The tool {tool.name}", "provider_tools", "tools")
            return orjson.Fragment(tool.opaque.json)
        if tool.custom and not self._custom:
            if tool.grammar is not None:
                self._ignore("tool_grammar", "tools")
            tool = custom_tools.as_function(tool)
        function: _Object = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.custom:
            if tool.grammar is not None:
                syntax, definition = tool.grammar
                grammar = {"syntax": syntax, "definition": definition}
                function["format"] = {"type": "grammar", "grammar": grammar}
            return {"type": "custom", "custom": function}
        if tool.schema is not None:
            function["parameters"] = orjson.Fragment(tool.schema)
        if tool.strict is not None:
            function["strict"] = tool.strict
        return self._cached({"type": "function", "function": function}, tool.cache)

    def _choice(
        self, mode: Literal["auto", "none", "required"], names: tuple[str, ...]
    ) -> str | _Object:
        if not names or mode == "none":
            return mode
        custom = custom_tools.names(self._request) if self._custom else frozenset()
        tools: list[_Object] = [
            {"type": kind, kind: {"name": name}}
            for name in names
            for kind in ("custom" if name in custom else "function",)
        ]
        if mode == "required" and len(tools) == 1:
            return tools[0]
        if not self.server.allowed_tools:
            return mode
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    # Settings.

    def sampling(self, body: _Object) -> None:
        """Everything that is one value."""
        request, server = self._request, self.server
        limit = request.max_output_tokens
        if limit is not None and self._toward.max_output_tokens is not None:
            # A model makes no more than its maximum, and servers refuse a limit above it.
            limit = min(limit, self._toward.max_output_tokens)
        if server.stops_max is not None and len(request.stop) > server.stops_max:
            raise self._refuse(f"More than {server.stops_max} stop sequences", "stop", "stop")
        values: tuple[tuple[str, object], ...] = (
            (server.limit, limit),
            ("temperature", request.temperature),
            ("top_p", request.top_p),
            ("stop", request.stop or None),
            (server.seed, request.seed),
            ("n", request.choices if request.choices > 1 else None),
            ("frequency_penalty", request.frequency_penalty),
            ("presence_penalty", request.presence_penalty),
            ("logprobs", True if request.top_logprobs is not None else None),
            ("top_logprobs", request.top_logprobs or None),
        )
        for field, value in values:
            if value is not None:
                body[field] = value
        self._where_taken(body, "top_k", request.top_k, taken=server.top_k)
        self._where_taken(body, "user", request.user, taken=server.user)

    def _where_taken(
        self, body: _Object, field: Literal["top_k", "user"], value: object, *, taken: bool
    ) -> None:
        if value is None:
            return
        if taken:
            body[field] = value
        else:
            self._ignore(field, field)

    def reasoning(self, body: _Object, asked: Reasoning | None) -> None:
        """How much to think, as the server is told; told as ignored where it cannot be."""
        if asked is None:
            return
        effort = asked.effort or effort_of(asked.budget_tokens)
        match self.server.effort:
            case "object":
                body["reasoning"] = _reasoning_object(asked)
                return
            case "switch":
                self._switch(body, asked, effort)
            case "high":
                self._clamped(body, effort, ("high",))
            case "plain":
                self._clamped(body, effort, PLAIN_EFFORTS)
            case "family":
                # Newer models do not think unless they are told to.
                as_it_sees_fit: Effort | None = "medium" if (asked.budget_tokens or 0) < 0 else None
                self._clamped(body, effort or as_it_sees_fit, efforts_of(self._toward.model))
            case kind:
                assert_never(kind)
        unsaid = effort is None and not {"thinking", "reasoning_effort"} & body.keys()
        if unsaid and (asked.show is not None or asked.budget_tokens is not None):
            self._ignore("reasoning", "reasoning")

    def _switch(self, body: _Object, asked: Reasoning, effort: Effort | None) -> None:
        if effort is None and asked.budget_tokens is None:
            return
        body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
        if asked.effort not in (None, "none") and self._toward.provider == "deepseek":
            self._clamped(body, asked.effort, PLAIN_EFFORTS)

    def _clamped(self, body: _Object, effort: Effort | None, known: tuple[Effort, ...]) -> None:
        """The nearest effort that the model knows; told where it is another one, or none.

        Not to think at all cannot be asked of a model that does not know it by its name.
        """
        if effort is None:
            return
        if effort not in known:
            self._ignore("reasoning", "reasoning")
        if known and (effort != "none" or len(known) > len(PLAIN_EFFORTS)):
            body["reasoning_effort"] = nearest(effort, known)


_SOUNDS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav", "x-m4a": "m4a"}


def _reasoning_object(asked: Reasoning) -> _Object:
    """OpenRouter's `reasoning`."""
    written: _Object = {}
    if asked.effort is not None:
        written["effort"] = asked.effort
    elif asked.budget_tokens is not None and asked.budget_tokens > 0:
        written["max_tokens"] = asked.budget_tokens
    elif asked.budget_tokens is not None:
        written["enabled"] = asked.budget_tokens < 0
    if asked.show is not None:
        written["exclude"] = not asked.show
    return written


def _response_format(output: OutputFormat) -> _Object:
    if output.schema is None:
        return {"type": "json_object"}
    name = _SCHEMA_NAME.sub("_", output.name or "answer")[:_SCHEMA_NAME_CHARS_MAX]
    schema: _Object = {"name": name, "schema": orjson.Fragment(output.schema)}
    if output.description is not None:
        schema["description"] = output.description
    if output.strict is not None:
        schema["strict"] = output.strict
    return {"type": "json_schema", "json_schema": schema}


def _control(cache: Literal["5m", "1h"]) -> _Object:
    return {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}


def _image(image: Image) -> _Object:
    url = image.url
    if url is None:
        url = f"data:{image.media_type or 'image/png'};base64,{image.data or ''}"
    found = {"url": url} if image.detail is None else {"url": url, "detail": image.detail}
    return {"type": "image_url", "image_url": found}


def _document_text(document: Document) -> str:
    text = document.text or ""
    return f"{document.name}\n\n{text}" if document.name else text


def _file_name(media_type: str | None) -> str:
    subtype = (media_type or "application/pdf").partition("/")[2]
    return f"document.{'txt' if subtype == 'plain' else subtype}"


def _kind(block: Block) -> str:
    """What a block is, for a message."""
    return block.kind or "Opaque content" if isinstance(block, Opaque) else type(block).__name__
