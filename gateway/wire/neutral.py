"""What every wire format is read into: one meaning for all providers.

Pure values. Readers of a format (the other modules of this package) make them; pricing, receipts
and the proxy read them.
"""

from typing import Literal

import msgspec


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one answer, in one meaning whatever the provider's convention.

    `input_tokens` is every token on the way in (cached, cache-written, audio, image and tool-use
    prompt included), `output_tokens` every token on the way out (reasoning included). All other
    counts are parts of those two; None means "not reported", which is not 0.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    input_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    input_tool_use_tokens: int | None = None
    output_audio_tokens: int | None = None
    output_image_tokens: int | None = None
    server_tool_requests: dict[str, int] | None = None
    billed_besides: list["SidePass"] | None = None

    @property
    def total_tokens(self) -> int:
        """`input_tokens` + `output_tokens`."""
        return self.input_tokens + self.output_tokens


class SidePass(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pass billed besides the top-level counts (Anthropic compaction or advisor iterations).

    `kind` is the provider's word (`compaction`, `advisor_message`, …); `model` is set where the
    pass ran on another model, at whose price it is billed. Counts follow `Usage`.
    """

    kind: str
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None


class StreamFault(msgspec.Struct, frozen=True):
    """An error that the upstream told inside a stream it had opened with 200."""

    type: str | None
    message: str


class Metered(msgspec.Struct, frozen=True):
    """What a tap learned of one answer.

    `usage` is None where the upstream reported none (yet). `complete` is True once the answer's
    own terminal was seen. `text_bytes` approximates the bytes of generated text that went by, the
    base of an estimate where nothing was reported. `response_id` is the provider's id of the
    answer, `response_model` the model that it says answered.
    """

    usage: Usage | None = None
    complete: bool = False
    fault: StreamFault | None = None
    text_bytes: int = 0
    response_id: str | None = None
    response_model: str | None = None


class Demand(msgspec.Struct, frozen=True):
    """What a request can use at most, as far as its body says; `demand.read` makes it.

    Byte-level tokenizers make at most one token of a byte. So `template_tokens` (what the provider
    adds of its own: chat template, tool prompts), the `input_bytes` of the body less its
    `image_bytes` (inline images, as base64) and for each of `images` the most that an image can
    take bound its input. `unbounded` means that more goes in than the body holds: content by URL or
    id, provider-run tools, stored state, compressed documents. `separate` inputs are each read in a
    context of their own (embeddings of a list): no context length bounds their sum.

    `max_output_tokens` is the body's own limit for each of its `choices`; None where it names
    none, 0 where nothing is generated. The flags say which kinds of token may occur, `cache_write`
    for how long input may be written to a cache at the price of that.
    """

    input_bytes: int
    max_output_tokens: int | None = None
    choices: int = 1
    unbounded: bool = False
    separate: bool = False
    images: int = 0
    image_bytes: int = 0
    template_tokens: int = 0
    input_audio: bool = False
    input_image: bool = False
    output_audio: bool = False
    output_image: bool = False
    cache_write: Literal["5m", "1h"] | None = None
