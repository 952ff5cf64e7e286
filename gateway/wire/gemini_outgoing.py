"""A neutral request as a generateContent body.

What Gemini is strict about, and is seen to here: a turn's function results stand in a turn of
their own, before what else the user says; each result has its function's name and is an object;
Gemini 3 wants a signature on the first call of every step, and takes `SKIP_VALIDATION` where the
call was another model's. Levels of thinking became budgets before Gemini 3, and those are bounded.
Pure. Source: ai.google.dev, "Function calling", "Thought signatures", "Gemini thinking", "OpenAI
compatibility" (November 2026), and recorded traffic.
"""

import re
from typing import TypeVar

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire import custom_tools
from gateway.wire import gemini_parts as parts
from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Refusal,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.wire.format import Toward
from gateway.wire.gemini_parts import FORMAT
from gateway.wire.output_schemas import for_gemini

SKIP_VALIDATION = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""Base64 of skip_thought_signature_validator: what Google documents for calls that Gemini 3 did
not make."""

STOPS_MAX = 5
CHOICES_MAX = 8
_SEED_MAX = 2**31

_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_BUDGETS = {
    "none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768,
}  # fmt: skip
"""Tokens for an effort before Gemini 3: Google's own, from its page on OpenAI compatibility."""

_SAID_IN: dict[str, str] = {"openai_responses": "input", "gemini": "contents"}
"""Where a caller's format has its conversation, if not in `messages`."""

_SAMPLING = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("max_output_tokens", "maxOutputTokens"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)

Json = dict[str, object]
_Signed = TypeVar("_Signed", Text, ToolCall)


def write_request(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """Write a generateContent body; see `format.Dialect.write_request`.

    The model and whether to stream are said by the path, not here.
    """
    document, ignored = document_of(request, toward)
    return msgspec.json.encode(document), ignored


def document_of(request: Request, toward: Toward) -> tuple[Json, list[str]]:
    """The body as a value. Raises as `write_request` does."""
    request, told = for_gemini(request)
    document, ignored = _RequestWriter(request, toward).document()
    return document, ignored + told


def _release(model: str) -> tuple[int, int] | None:
    """The release of a Gemini model; None where its name tells none (`gemini-flash-latest`)."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


class _RequestWriter:
    """Writes one request, noting the fields that it leaves out."""

    def __init__(self, request: Request, toward: Toward) -> None:
        self._request = request
        self._model = toward.model
        release = _release(toward.model)
        self._newest = release is None or release >= (3, 0)
        self._thinks = release is None or release >= (2, 5)
        self._ignored: dict[str, None] = {}
        self._names: dict[str, str] = {}

    def _ignore(self, field: str | None) -> None:
        if field:
            self._ignored[field] = None

    def _field(self, feature: Feature | None = None) -> str:
        """The caller's name for a feature; where it was not noted, for the conversation."""
        named = self._request.spelled.get(feature) if feature is not None else None
        return named or _SAID_IN.get(self._request.format, "messages")

    def _refuse(self, message: str, feature: Feature | None = None) -> GatewayError:
        return GatewayError("unsupported_parameter", message, param=self._field(feature))

    def _unsigned(self, block: _Signed) -> _Signed:
        """Text or a call without a signature that Gemini did not issue."""
        if block.signature is None or block.signature.format == FORMAT:
            return block
        self._ignore(self._request.spelled.get("thinking_history"))
        return msgspec.structs.replace(block, signature=None)

    def document(self) -> tuple[Json, list[str]]:
        request = self._request
        document: Json = {"contents": self._contents(request.messages)}
        if system := self._content_parts(request.system):
            document["systemInstruction"] = {"parts": system}
        if request.tools:
            document["tools"] = self._tools(request.tools)
            if choice := self._choice():
                document["toolConfig"] = {"functionCallingConfig": choice}
        if config := self._config():
            document["generationConfig"] = config
        return document, [*self._ignored]

    # What was said.

    def _contents(self, messages: tuple[Message, ...]) -> list[Json]:
        out: list[Json] = []
        turn: list[Block] = []
        role: Role = "user"
        for message in messages:
            speaker: Role = "assistant" if message.role == "assistant" else "user"
            if speaker != role:
                out += self._turn(role, turn)
                role, turn = speaker, []
            turn += _marked(message.content) if message.role == "system" else message.content
        out += self._turn(role, turn)
        # Nothing but empty text is taken, nothing at all is not (249339b7).
        return out or [{"role": "user", "parts": [{"text": ""}]}]

    def _turn(self, role: Role, blocks: list[Block]) -> list[Json]:
        if role == "assistant":
            said = self._content_parts(tuple(blocks))
            self._sign(said)
            return [{"role": "model", "parts": said}] if said else []
        results = [one for one in blocks if isinstance(one, ToolResult)]
        others = [one for one in blocks if not isinstance(one, ToolResult)]
        answered: list[Json | Raw] = []
        media: list[Json | Raw] = []
        for result in results:
            part, beside = self._result(result)
            answered.append(part)
            media += beside
        media += self._content_parts(tuple(others))
        return [{"role": "user", "parts": one} for one in (answered, media) if one]

    def _sign(self, said: list[Json | Raw]) -> None:
        """Give the first call of a step the signature that Gemini 3 asks for, if it has none."""
        if not self._newest:
            return
        for part in said:
            if isinstance(part, dict) and "functionCall" in part:
                part.setdefault("thoughtSignature", SKIP_VALIDATION)
                return

    def _content_parts(self, blocks: tuple[Block, ...]) -> list[Json | Raw]:
        out = []
        for block in blocks:
            part = self._part(block)
            if part is not None:
                out.append(part)
        return out

    def _part(self, block: Block) -> Json | Raw | None:
        match block:
            case Text() | Thinking():
                return self._text(block)
            case ToolCall():
                return self._call(block)
            case Image() | Document() | Audio():
                return self._media(block)
            case Refusal(text=text):
                return {"text": text} if text else None
            case Opaque():
                return self._opaque(block)
            case Citation():
                self._ignore("citations")  # remarks on text that stays
                return None
            case ToolResult():
                # Only a user's turn has results, and `_turn` has taken them.
                raise self._refuse("A tool result must be in a user's turn.")

    def _text(self, block: Text | Thinking) -> Json | None:
        if isinstance(block, Thinking):
            issuer = self._request.format if block.signature is None else block.signature.format
            if issuer != FORMAT:
                self._ignore(self._request.spelled.get("thinking_history"))
                return None
        else:
            block = self._unsigned(block)
        if not block.text and block.signature is None:
            return None  # G refuses a part without text as it does one without anything
        return parts.text_part(block)

    def _call(self, block: ToolCall) -> Json:
        if block.custom:
            block = custom_tools.as_arguments(block)
        if block.arguments.strip() and not parts.is_object(block.arguments):
            raise self._refuse(
                f"The arguments of the call {block.id!r} of {block.name!r} are not a JSON object."
            )
        self._names[block.id] = block.name
        return parts.call_part(self._unsigned(block))

    def _media(self, block: Image | Document | Audio) -> Json:
        if isinstance(block, Document) and block.name:
            self._ignore("document.name")  # displayName is Vertex's alone
        part = parts.media_part(block)
        if part is None:
            raise self._refuse("An image, a document or sound has no media type.")
        return part

    def _opaque(self, block: Opaque) -> Raw:
        part = parts.opaque_part(block)
        if part is None:
            message = f"A {block.kind or 'block'} has no place in Gemini's format."
            raise self._refuse(message, "opaque_history")
        return part

    def _result(self, block: ToolResult) -> tuple[Json, list[Json | Raw]]:
        """The result as a functionResponse, and media that must stand beside it."""
        name = block.name or self._names.get(block.call_id)
        if name is None:
            raise self._refuse(
                f"The tool result {block.call_id!r} belongs to no call in the history."
            )
        texts = [one.text for one in block.content if isinstance(one, (Text, Refusal))]
        others = [one for one in block.content if not isinstance(one, (Text, Refusal, Citation))]
        response: Json = {"id": block.call_id, "name": name}
        media = self._content_parts(tuple(others))
        said = bool(texts) or block.is_error
        text = "\n".join(texts)
        response["response"] = _response(text, is_error=block.is_error) if said else {}
        if media and self._newest:
            response["parts"] = media
            media = []
        return {"functionResponse": response}, media

    # Tools.

    def _tools(self, tools: tuple[Tool, ...]) -> list[Json | Raw]:
        functions: list[Json] = []
        out: list[Json | Raw] = []
        for tool in tools:
            if tool.opaque is not None:
                if tool.search and tool.opaque.format != FORMAT:
                    continue
                if tool.opaque.format != FORMAT:
                    message = f"The tool {tool.name!r} is run by another provider."
                    raise self._refuse(message, "provider_tools")
                out.append(Raw(tool.opaque.json))
            else:
                if not functions:
                    out.append({"functionDeclarations": functions})
                functions.append(
                    _declaration(custom_tools.as_function(tool) if tool.custom else tool)
                )
        return out

    def _choice(self) -> Json | None:
        choice = self._request.tool_choice
        if choice is None or all(tool.opaque is not None for tool in self._request.tools):
            return None
        names: Json = {"allowedFunctionNames": list(choice.names)} if choice.names else {}
        if choice.mode == "required":
            return {"mode": "ANY", **names}
        if choice.mode == "none":
            return {"mode": "NONE"}
        # AUTO takes no names.
        return {"mode": "VALIDATED" if names else "AUTO", **names}

    # Generation.

    def _config(self) -> Json:
        request = self._request
        config: Json = {
            spelled: value
            for name, spelled in _SAMPLING
            if (value := getattr(request, name)) is not None
        }
        if request.top_logprobs is not None:
            config |= {"responseLogprobs": True, "logprobs": request.top_logprobs}
        if request.output is not None:
            config["responseMimeType"] = "application/json"
            if request.output.schema is not None:
                config["responseJsonSchema"] = self._schema(request.output)
        if "image_output" in request.spelled:
            config["responseModalities"] = ["TEXT", "IMAGE"]
        if thinking := self._thinking():
            config["thinkingConfig"] = thinking
        self._bounded(config)
        return config

    def _schema(self, output: OutputFormat) -> Raw:
        """The schema of the output; what is said of it stands in it, as JSON Schema has it."""
        schema = output.schema or b"{}"
        if output.description:
            if parts.may_take(schema, "description"):
                said = b'"description":' + msgspec.json.encode(output.description) + b","
                return Raw(b"{" + said + schema.lstrip()[1:])
            self._ignore("description")
        return Raw(schema)

    def _bounded(self, config: Json) -> None:
        """Write what Gemini takes within bounds only."""
        request = self._request
        if request.seed is not None:
            if -_SEED_MAX <= request.seed < _SEED_MAX:
                config["seed"] = request.seed
            else:
                self._ignore(request.spelled.get("seed"))
        if len(request.stop) > STOPS_MAX:
            raise self._refuse(f"Gemini takes {STOPS_MAX} stop sequences at most.", "stop")
        if request.stop:
            config["stopSequences"] = list(request.stop)
        if request.choices > CHOICES_MAX:
            raise self._refuse(f"Gemini makes {CHOICES_MAX} choices at most.", "choices")
        if request.choices != 1:
            config["candidateCount"] = request.choices

    def _thinking(self) -> Json:
        asked = self._request.reasoning
        if asked is None:
            return {}
        if not self._thinks:
            if asked.effort != "none" and asked.budget_tokens != 0:
                self._ignore(self._request.spelled.get("reasoning"))
            return {}
        out: Json = {} if asked.show is None else {"includeThoughts": asked.show}
        if asked.budget_tokens is not None:
            out["thinkingBudget"] = self._budget(asked.budget_tokens)
        elif asked.effort is not None:
            if self._newest:
                out["thinkingLevel"] = self._level(asked.effort)
            else:
                out["thinkingBudget"] = self._budget(_BUDGETS[asked.effort])
        return out

    def _level(self, effort: str) -> str:
        """A level of Gemini 3, which cannot be kept from thinking, and Pro not from some."""
        if effort in ("none", "minimal"):
            if effort == "none":
                self._ignore(self._request.spelled.get("reasoning"))
            return "LOW" if "pro" in self._model else "MINIMAL"
        return "HIGH" if effort == "xhigh" else effort.upper()

    def _budget(self, tokens: int) -> int:
        """A budget in the bounds of the model: Pro 128 to 32,768, others 0 to 24,576."""
        if tokens < 0:
            return -1
        if "pro" not in self._model:
            return min(tokens, 24576)
        if tokens == 0:
            self._ignore(self._request.spelled.get("reasoning"))
        return min(max(tokens, 128), 32768)


def _marked(blocks: tuple[Block, ...]) -> list[Block]:
    """A later system message, in a user's turn: what it is must still be seen."""
    return [
        Text(f"<system>\n{one.text}\n</system>") if isinstance(one, Text) and one.text else one
        for one in blocks
    ]


def _declaration(tool: Tool) -> Json:
    out: Json = {"name": tool.name}
    if tool.description is not None:
        out["description"] = tool.description
    if tool.schema is not None:
        out["parametersJsonSchema"] = Raw(tool.schema)
    return out


def _response(text: str, *, is_error: bool) -> Json | Raw:
    """What a function returned, as the object that Gemini wants."""
    if is_error:
        return {"error": text}
    if text[:1] == "{" and parts.is_object(text):
        return Raw(text.encode())
    return {"output": text}
