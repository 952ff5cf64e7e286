"""What a request may hold that costs no more than its bytes: content, format by format.

The other half of `demand.py`. The walks here go over a body's top-level fields and note in `Found`
what counts besides bytes: inline images, audio, caching, tools. What is not listed raises
msgspec.ValidationError, and the request is then taken for unbounded. The shapes are strict: every
member of every object is checked by its decoded name, each time it is said, so neither an escaped
key nor a key said twice slips past. Whether a request makes sense is not judged here.

Shapes: the request types of openai 2.54, anthropic 2.11 and google-genai 3.4 (November 2026), and
what compatible servers add to them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, field

Fields = dict[str, Raw]
"""The top-level members of a body, as their bytes."""

_ImageUrl = Annotated[str, Meta(pattern=r"\Adata:image/")]
_ImageType = Annotated[str, Meta(pattern=r"\Aimage/")]
_CallersTool = Annotated[str, Meta(pattern=r"\A(custom|(bash|text_editor|memory)_\d+)\Z")]
_ABSENT = Raw()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Found:
    """What a walk over a body came upon; `image_bytes` are those of the inline images.

    `plain` is set where `plain.py` has read the main list already: the walks pass it over.
    """

    __slots__ = ("audio", "cache", "image_bytes", "images", "plain", "tool_prompts", "unbounded")

    def __init__(self) -> None:
        self.plain = False
        self.unbounded = False
        self.images = 0
        self.image_bytes = 0
        self.audio = False
        self.cache: Literal["5m", "1h"] | None = None
        self.tool_prompts = 0

    def image(self, size: int) -> None:
        """Count an inline image of so many characters."""
        self.images += 1
        self.image_bytes += size

    def cached(self, control: Raw) -> None:
        """Note a `cache_control`; one that is not plainly of the short kind counts as the long."""
        spelled = bytes(control)
        if spelled != b"null":
            self.cached_for("1h" if b"ttl" in spelled or b"\\" in spelled else "5m")

    def cached_for(self, lifetime: Literal["5m", "1h"]) -> None:
        """Note that input is cached for so long."""
        if self.cache != "1h":
            self.cache = lifetime


class _Strict(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object of which nothing but the listed members is known."""


# -- OpenAI ------------------------------------------------------------------------------------


class _Image(_Strict):
    url: _ImageUrl
    detail: Raw = _ABSENT


class _Part(_Strict):
    """A part of content, in chat and in Responses."""

    type: Literal[
        "text",
        "refusal",
        "image_url",
        "input_audio",
        "input_text",
        "output_text",
        "input_image",
        "summary_text",
        "reasoning_text",
    ]
    text: Raw = _ABSENT
    refusal: Raw = _ABSENT
    image_url: _Image | _ImageUrl | None = None
    detail: Raw = _ABSENT
    input_audio: Raw = _ABSENT
    annotations: Raw = _ABSENT
    logprobs: Raw = _ABSENT
    cache_control: Raw = _ABSENT
    prompt_cache_breakpoint: Raw = _ABSENT
    file_id: None = None


class _Message(_Strict):
    """A chat message. An earlier spoken answer (`audio`) is there by its id alone."""

    role: Raw = _ABSENT
    content: str | list[_Part] | None = None
    name: Raw = _ABSENT
    refusal: Raw = _ABSENT
    tool_calls: Raw = _ABSENT
    tool_call_id: Raw = _ABSENT
    function_call: Raw = _ABSENT
    annotations: Raw = _ABSENT
    reasoning: Raw = _ABSENT
    reasoning_content: Raw = _ABSENT
    reasoning_details: Raw = _ABSENT
    reasoning_signature: Raw = _ABSENT
    prefix: Raw = _ABSENT
    partial: Raw = _ABSENT
    cache_control: Raw = _ABSENT
    audio: None = None


class _Item(_Strict):
    """An item of the input in Responses."""

    type: Literal[
        "message", "function_call", "function_call_output", "custom_tool_call",
        "custom_tool_call_output", "reasoning", "local_shell_call", "local_shell_call_output",
        "additional_tools",
    ] = "message"  # fmt: skip
    id: Raw = _ABSENT
    role: Raw = _ABSENT
    content: str | list[_Part] | None = None
    status: Raw = _ABSENT
    phase: Raw = _ABSENT
    call_id: Raw = _ABSENT
    name: Raw = _ABSENT
    namespace: Raw = _ABSENT
    arguments: Raw = _ABSENT
    input: Raw = _ABSENT
    output: str | list[_Part] | None = None
    action: Raw = _ABSENT
    summary: Raw = _ABSENT
    encrypted_content: str | None = None
    tools: "list[_Tool] | None" = None


class _Reasoning(_Strict):
    """How much to think. In a `mode` of its own a model reads the input several times over."""

    effort: Raw = _ABSENT
    summary: Raw = _ABSENT
    generate_summary: Raw = _ABSENT
    context: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    enabled: Raw = _ABSENT
    exclude: Raw = _ABSENT
    mode: Literal["standard"] | None = None


class _Tool(msgspec.Struct, gc=False):
    """Everything about a function that its caller runs is text; so is a group of such functions,
    and a search for them that the caller runs.
    """

    type: Literal[
        "function", "custom", "local_shell", "apply_patch", "namespace", "tool_search"
    ]  # fmt: skip
    tools: "list[_Tool] | None" = None
    execution: Literal["client"] | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_INPUT = msgspec.json.Decoder(str | list[_Item] | None)
_TOOLS = msgspec.json.Decoder(list[_Tool] | None)
_REASONING = msgspec.json.Decoder(_Reasoning | None)

CHAT = _names(
    "model messages stream stream_options max_tokens max_completion_tokens n best_of tools "
    "tool_choice parallel_tool_calls functions function_call temperature top_p top_k min_p stop "
    "presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs seed "
    "random_seed user metadata store service_tier safety_identifier response_format reasoning "
    "reasoning_effort reasoning_format include_reasoning thinking enable_thinking verbosity "
    "modalities audio prediction prompt_cache_key prompt_cache_options prompt_cache_retention "
    "chat_template_kwargs safe_prompt usage cache_control"
)
RESPONSES = _names(
    "model input instructions stream stream_options max_output_tokens max_tool_calls tools "
    "tool_choice parallel_tool_calls temperature top_p top_logprobs text truncation include "
    "reasoning metadata user store background service_tier safety_identifier prompt_cache_key "
    "prompt_cache_options prompt_cache_retention client_metadata"
)
COMPLETIONS = _names(
    "model prompt suffix stream stream_options max_tokens n best_of echo logprobs stop seed user "
    "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty "
    "logit_bias"
)
OPENAI_EMBEDDINGS = _names(
    "model input dimensions encoding_format user input_type output_dimension output_dtype "
    "truncation"
)


def chat(fields: Fields, found: Found) -> None:
    """A chat request."""
    found.cached_for("5m")  # some of OpenAI's models charge for what they cache unasked
    raw = fields.get("messages")
    if raw is not None and not found.plain:
        for message in _MESSAGES.decode(raw):
            if type(message.content) is list:
                _parts(message.content, found)
            if message.cache_control:
                found.cached(message.cache_control)
    if "cache_control" in fields:
        found.cached(fields["cache_control"])
    _settings(fields, found)


def _parts(parts: list[_Part], found: Found) -> None:
    for part in parts:
        image = part.image_url
        if image is not None:
            found.image(len(image.url if isinstance(image, _Image) else image))
        if part.input_audio:
            found.audio = True
        if part.cache_control:
            found.cached(part.cache_control)


def _settings(fields: Fields, found: Found) -> None:
    if "reasoning" in fields:
        _REASONING.decode(fields["reasoning"])
    if "tools" in fields:
        _own_tools(_TOOLS.decode(fields["tools"]), found)
        found.tool_prompts = 1
    elif "functions" in fields:
        found.tool_prompts = 1


def _own_tools(tools: list[_Tool] | None, found: Found) -> None:
    for tool in tools or ():
        if tool.type == "tool_search" and tool.execution is None:
            found.unbounded = True
        if tool.tools:
            _own_tools(tool.tools, found)


def responses(fields: Fields, found: Found) -> None:
    """A Responses request."""
    found.cached_for("5m")
    raw = fields.get("input")
    if raw is not None and not found.plain and memoryview(raw)[0] != 0x22:
        items = _INPUT.decode(raw)
        for item in items if type(items) is list else ():
            if type(item.content) is list:
                _parts(item.content, found)
            if type(item.output) is list:
                _parts(item.output, found)
            if item.tools:
                _own_tools(item.tools, found)
                found.tool_prompts = 1
            if _is_reference(item):
                found.unbounded = True
    _settings(fields, found)


def _is_reference(item: _Item) -> bool:
    """Whether what an item says is kept by the provider, and here is its id alone.

    A message without content is: OpenAI takes an item of an id for an `item_reference`, typed or
    not (API reference, November 2026).
    """
    if item.type == "reasoning":
        return not (item.encrypted_content or item.content)
    return item.type == "message" and item.content is None


def completions(fields: Fields, found: Found) -> None:
    """A legacy completion: its prompt is text or token numbers."""
    found.cached_for("5m")


def embeddings(fields: Fields, found: Found) -> None:
    """An embedding of texts: nothing counts but bytes."""


# -- Anthropic ---------------------------------------------------------------------------------


class _Source(_Strict):
    """What an image or a document holds, where it is in the body and bounded by its bytes."""

    type: Literal["base64", "text"]
    media_type: Annotated[str, Meta(pattern=r"\A(image/|text/plain\Z)")]
    data: Raw


class _Block(_Strict):
    """A content block of a message, or of a tool's result. `source` is text in search results."""

    type: Literal[
        "text", "image", "document", "search_result", "tool_use", "tool_result", "thinking",
        "redacted_thinking",
    ]  # fmt: skip
    text: Raw = _ABSENT
    citations: Raw = _ABSENT
    source: _Source | str | None = None
    title: Raw = _ABSENT
    context: Raw = _ABSENT
    id: Raw = _ABSENT
    name: Raw = _ABSENT
    input: Raw = _ABSENT
    tool_use_id: Raw = _ABSENT
    content: "str | list[_Block] | None" = None
    is_error: Raw = _ABSENT
    thinking: Raw = _ABSENT
    signature: Raw = _ABSENT
    data: Raw = _ABSENT
    cache_control: Raw = _ABSENT


class _Turn(_Strict):
    """A message of Anthropic's."""

    role: Raw = _ABSENT
    content: str | list[_Block] | None = None


class _Edit(msgspec.Struct, gc=False):
    """What the provider takes out of a conversation before the model sees it. A compaction writes
    into it, too.
    """

    type: Annotated[str, Meta(pattern=r"\Aclear_(thinking|tool_uses)_\d+\Z")]


class _ContextManagement(_Strict):
    edits: list[_Edit] | None = None


class _AnthropicTool(msgspec.Struct, gc=False):
    """A tool that its caller runs."""

    type: _CallersTool | None = None
    cache_control: Raw = _ABSENT


_TURNS = msgspec.json.Decoder(list[_Turn])
_SYSTEM = msgspec.json.Decoder(str | list[_Block] | None)
_CONTEXT_MANAGEMENT = msgspec.json.Decoder(_ContextManagement | None)
_ANTHROPIC_TOOLS = msgspec.json.Decoder(list[_AnthropicTool] | None)
ANTHROPIC = _names(
    "model messages max_tokens system stream stop_sequences temperature top_k top_p tools "
    "tool_choice thinking metadata service_tier inference_geo output_config output_format speed "
    "cache_control anthropic_version anthropic_beta betas context_management"
)


def anthropic(fields: Fields, found: Found) -> None:
    """A Messages request."""
    raw = fields.get("messages")
    if raw is not None and not found.plain:
        for turn in _TURNS.decode(raw):
            if type(turn.content) is list:
                _blocks(turn.content, found)
    raw = fields.get("system")
    if raw is not None and memoryview(raw)[0] != 0x22:
        system = _SYSTEM.decode(raw)
        if type(system) is list:
            _blocks(system, found)
    if "cache_control" in fields:
        found.cached(fields["cache_control"])
    if "context_management" in fields:
        _CONTEXT_MANAGEMENT.decode(fields["context_management"])
    if "tools" in fields:
        _anthropic_tools(fields["tools"], found)


def _anthropic_tools(raw: Raw, found: Found) -> None:
    found.tool_prompts = 1
    for tool in _ANTHROPIC_TOOLS.decode(raw) or ():
        if tool.type is not None and tool.type != "custom":
            found.tool_prompts += 1
        if tool.cache_control:
            found.cached(tool.cache_control)


def _blocks(blocks: list[_Block], found: Found) -> None:
    for block in blocks:
        source = block.source
        if type(source) is _Source and source.media_type != "text/plain":
            found.image(len(source.data))
        if block.cache_control:
            found.cached(block.cache_control)
        if type(block.content) is list:
            _blocks(block.content, found)


# -- Gemini ------------------------------------------------------------------------------------


class _Blob(_Strict):
    mime_type: _ImageType | None = field(name="mimeType", default=None)
    mime_type_snake: _ImageType | None = field(name="mime_type", default=None)
    data: Raw = _ABSENT


class _FunctionResponse(_Strict):
    """What a caller's function gave back; media in it would be in a member of their own."""

    id: Raw = _ABSENT
    name: Raw = _ABSENT
    response: Raw = _ABSENT


class _GeminiPart(_Strict):
    """A part; Google reads snake case for camel case."""

    text: Raw = _ABSENT
    thought: Raw = _ABSENT
    thought_signature: Raw = field(name="thoughtSignature", default=_ABSENT)
    thought_signature_snake: Raw = field(name="thought_signature", default=_ABSENT)
    function_call: Raw = field(name="functionCall", default=_ABSENT)
    function_call_snake: Raw = field(name="function_call", default=_ABSENT)
    function_response: _FunctionResponse | None = field(name="functionResponse", default=None)
    function_response_snake: _FunctionResponse | None = field(
        name="function_response", default=None
    )
    inline_data: _Blob | None = field(name="inlineData", default=None)
    inline_data_snake: _Blob | None = field(name="inline_data", default=None)


class _Content(_Strict):
    role: Raw = _ABSENT
    parts: list[_GeminiPart] | None = None


class _GeminiTool(_Strict):
    """Functions that the caller runs; every other kind of tool runs at the provider."""

    declarations: Raw = field(name="functionDeclarations", default=_ABSENT)
    declarations_snake: Raw = field(name="function_declarations", default=_ABSENT)


class _Embed(_Strict):
    """One of the requests of `batchEmbedContents`."""

    model: Raw = _ABSENT
    content: str | _Content | None = None
    task_type: Raw = field(name="taskType", default=_ABSENT)
    task_type_snake: Raw = field(name="task_type", default=_ABSENT)
    title: Raw = _ABSENT
    dimensions: Raw = field(name="outputDimensionality", default=_ABSENT)
    dimensions_snake: Raw = field(name="output_dimensionality", default=_ABSENT)


_CONTENTS = msgspec.json.Decoder(list[_Content] | None)
_CONTENT = msgspec.json.Decoder(str | _Content | None)
_GEMINI_TOOLS = msgspec.json.Decoder(list[_GeminiTool] | None)
_EMBEDS = msgspec.json.Decoder(list[_Embed] | None)
GEMINI = _names(
    "contents systemInstruction system_instruction tools toolConfig tool_config safetySettings "
    "safety_settings generationConfig generation_config labels model store serviceTier "
    "service_tier"
)
GEMINI_EMBEDDINGS = _names(
    "model content requests taskType task_type title outputDimensionality output_dimensionality"
)


def gemini(fields: Fields, found: Found) -> None:
    """A generateContent request."""
    if "contents" in fields and not found.plain:
        for content in _CONTENTS.decode(fields["contents"]) or ():
            _content(content, found)
    for key in ("systemInstruction", "system_instruction"):
        if key in fields:
            _content(_CONTENT.decode(fields[key]), found)
    if "tools" in fields:
        _GEMINI_TOOLS.decode(fields["tools"])
        found.tool_prompts = 1


def _content(content: str | _Content | None, found: Found) -> None:
    if type(content) is _Content:
        for part in content.parts or ():
            for blob in (part.inline_data, part.inline_data_snake):
                if blob is not None:
                    found.image(len(blob.data))


def gemini_embeddings(fields: Fields, found: Found) -> None:
    """An embedContent or batchEmbedContents request."""
    if "content" in fields:
        _content(_CONTENT.decode(fields["content"]), found)
    if "requests" in fields:
        for request in _EMBEDS.decode(fields["requests"]) or ():
            _content(request.content, found)
