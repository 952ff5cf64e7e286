"""Build `docs/formats.md`: what is lost between each two formats, from the dialects' own tables.

    python -m gateway.wire.build_table            print the page
    python -m gateway.wire.build_table FILE       write it

A cell has the features that requests of the caller's format can ask for and the target's format has
no place for. A test holds the file in `docs/` to what this prints. At run time the pages at `/docs`
show the same table, from `lost`.
"""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import get_args

from gateway.wire import registry, schema_limits
from gateway.wire.conversation import Feature, Support
from gateway.wire.counting_translation import COUNTERS
from gateway.wire.format import Dialect

TITLES: Mapping[str, str] = {
    "openai_chat": "OpenAI chat",
    "openai_responses": "OpenAI Responses",
    "anthropic_messages": "Anthropic Messages",
    "gemini": "Gemini",
}

WORDS: Mapping[Feature, str] = {
    "late_system": "system text after the first turn",
    "message_name": "names of message authors",
    "prefill": "a trailing assistant turn to go on with",
    "image_data": "images as base64",
    "image_url": "images by URL",
    "image_detail": "the detail of images",
    "audio": "audio input",
    "document_data": "documents as base64",
    "document_url": "documents by URL",
    "document_text": "documents as plain text",
    "file_id": "files by the id that a provider gave them",
    "video": "video input",
    "tools": "function tools",
    "custom_tools": "custom (free text) tools",
    "tool_grammar": "the grammar of a custom tool, beyond its description",
    "provider_tools": "tools that the provider runs",
    "offered_search": "the provider's search, offered beside tools of the caller's own",
    "strict_tools": "strict tool schemas",
    "tool_choice": "tool choice",
    "tool_choice_several": "a choice among several named tools",
    "parallel_tool_calls": "whether tool calls may be parallel",
    "tool_result_image": "images in tool results",
    "tool_result_document": "documents in tool results",
    "tool_result_error": "the error mark of tool results",
    "json_object": "JSON output without a schema",
    "json_schema": "JSON output of a schema",
    "stop": "stop sequences",
    "temperature": "temperature",
    "temperature_above_1": "temperature above 1",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "choices": "several choices",
    "logprobs": "logprobs",
    "logit_bias": "logit bias",
    "frequency_penalty": "frequency penalty",
    "presence_penalty": "presence penalty",
    "max_output_tokens": "a limit of output tokens",
    "reasoning": "reasoning effort or budget",
    "thinking_history": "thoughts of earlier turns",
    "opaque_history": "blocks of earlier turns that one format alone knows",
    "audio_output": "audio output",
    "image_output": "image output",
    "verbosity": "verbosity",
    "prediction": "predicted output",
    "user": "the end user's id",
    "metadata": "metadata",
    "service_tier": "service tier",
    "prompt_cache": "prompt cache markers and keys",
    "safety_settings": "safety settings",
    "store": "whether the answer is stored",
    "stored_state": "state that a provider stored (previous answers, conversations, caches)",
    "background": "background answers",
    "truncation": "truncation of long input",
    "include": "more to include in the answer",
    "moderation": "moderation with the answer",
}
assert tuple(WORDS) == get_args(Feature)

UNSPOKEN: Mapping[str, frozenset[Feature]] = {
    "openai_chat": frozenset((
        "background", "document_text", "include", "offered_search", "safety_settings",
        "stored_state", "tool_result_error", "truncation",
    )),
    "openai_responses": frozenset((
        "audio_output", "choices", "frequency_penalty", "image_output", "logit_bias",
        "message_name", "prediction", "presence_penalty", "safety_settings", "seed", "stop",
        "top_k", "video",
    )),
    "anthropic_messages": frozenset((
        "audio", "audio_output", "background", "choices", "custom_tools", "frequency_penalty",
        "image_detail", "image_output", "include", "json_object", "logit_bias", "logprobs",
        "message_name", "moderation", "prediction", "presence_penalty", "safety_settings", "seed",
        "store", "tool_choice_several", "tool_grammar", "truncation", "verbosity", "video",
    )),
    "gemini": frozenset((
        "background", "custom_tools", "include", "late_system", "logit_bias", "message_name",
        "moderation", "parallel_tool_calls", "prediction", "prompt_cache", "strict_tools",
        "tool_grammar", "truncation", "verbosity",
    )),
}  # fmt: skip
"""What requests of a format have no way to ask for; one that is not here is taken to ask for all.
That a format can ask does not mean that others can ask it: ids and state belong to their provider.
"""

_LOSSES: tuple[Support, ...] = ("refused", "ignored")

_INTRODUCTION = """\
# Between the formats

A call whose model is served in the caller's own format passes through byte for byte. Any other is
translated. What the target's format has no place for is never dropped in silence: either the call
is refused with 400 `unsupported_parameter`, which names the field, or the field is left out, where
it is a hint that cannot change what the answer means, and named in the header `X-Gateway-Ignored`.
Fields that the gateway does not know are left out and named there as well.

The table has every feature that the caller's format can ask for and the target's cannot. A feature
that is in no cell of a pair is translated; a single value of it may still have no equivalent and
is then refused in the same way.

This page is made by `python -m gateway.wire.build_table docs/formats.md`, from the tables that the
translation itself refuses and ignores by.
"""

_SCHEMAS = """\
## Schemas

Providers hold an answer to a part of JSON Schema. What a target has no word for is taken out of the
schema, said in the `description` beside it (`Must hold too: {{"minimum":0}}`) and told in
`X-Gateway-Ignored` (`response_format.minimum`): the model reads it, nothing holds it to it.

| to | said in words |
|---|---|
| Anthropic, outputs and strict tools | {anthropic}, `minItems` above 1, formats other than {formats}, patterns that look around; `oneOf` is `anyOf` |
| Gemini, outputs | {gemini}; `const` is an `enum` of one |

Objects that do not say whether they are closed are closed toward Anthropic. An output of properties
with any name, or one that refers to itself, is refused there by the caller's field; a tool like
that is not strict, which is told. From Anthropic's and Gemini's callers toward OpenAI a schema is
`strict` where it can be, as their own providers hold to it: an object at its root, objects closed,
every property required or null, none of {openai}. Else it is given without `strict`, which is told.
"""  # noqa: E501 - rows of a table

COUNTED_BY: Mapping[str, tuple[str, str]] = {
    "openai_responses": ("`responses/input_tokens`", "OpenAI, where it has the Responses API"),
    "anthropic_messages": ("`messages/count_tokens`", "Anthropic"),
    "gemini": ("`models/…:countTokens`", "Gemini"),
}
"""By the format of what is counted: the call, and the format of the providers that it is sent to.
"""
assert set(COUNTED_BY) == set(COUNTERS)

_EMBEDDINGS = """\
## Embeddings

`/v1/embeddings` in front of Gemini-format providers, and `embedContent` and `batchEmbedContents` in
front of OpenAI-format ones. Numbers are passed on as they are spelled; an OpenAI caller gets base64
where it asks for that, as its SDKs do. Providers of Anthropic's format make no embeddings.

| from | to | refused | ignored |
|---|---|---|---|
| OpenAI | Gemini | input as numbers of tokens | `user`, and every field but `input`, `model`, `dimensions` and `encoding_format` |
| Gemini | OpenAI | content other than text; several `outputDimensionality` in one batch | `taskType`, `title`, and every field but `content`, `model` and `outputDimensionality` |

Where the provider tells no usage, as some of Google's models do not, it is estimated from the bytes
of the request; the receipt says so, and so does the answer (`X-Gateway-Estimated: true`).
"""  # noqa: E501 - rows of a table

_COUNTS = """\
## Token counts

A count goes where the call itself would go, and is asked of that provider's own counter: system
text, turns, tools and the schema of the output, in the provider's format. It is refused for what
the call itself is refused for; of what only says how to answer nothing is sent.

| a caller's | is asked of providers of the format | as |
|---|---|---|
{rows}

Where the provider has no counter, or counting fails on its side (404, 401, 403, 408, 429, 5xx, no
answer in time, an answer without a count), the answer is an estimate from the bytes of the request,
with `X-Gateway-Estimated: true`. What a provider has against the request itself stays an error.
Callers with a key of their own get what their provider says.
"""


def page(dialects: Mapping[str, Dialect]) -> str:
    """The page in Markdown: a table for each format that a caller may speak, then other calls."""
    sections = (_section(caller, dialects) for caller in dialects.values())
    counts = _COUNTS.format(rows=_counts())
    return "\n".join([_INTRODUCTION, *sections, _schemas(), _EMBEDDINGS, counts])


def _schemas() -> str:
    return _SCHEMAS.format(
        anthropic=_listed(schema_limits.ANTHROPIC_LACKS),
        formats=_listed(schema_limits.ANTHROPIC_FORMATS),
        gemini=_listed(schema_limits.GEMINI_LACKS - {"const"}),
        openai=_listed(schema_limits.OPENAI_STRICT_LACKS),
    )


def _listed(words: Collection[str]) -> str:
    return ", ".join(f"`{one}`" for one in sorted(words))


def _counts() -> str:
    return "\n".join(
        f"| {mine} | {format_} | {call} |"
        for caller, (mine, _) in COUNTED_BY.items()
        for counter, (call, format_) in COUNTED_BY.items()
        if counter != caller
    )


def lost(caller: Dialect, target: Dialect, how: Support) -> list[str]:
    """In words, the features of a caller's format that a target's refuses, or ignores."""
    unspoken = UNSPOKEN.get(caller.name, frozenset())
    return [
        words
        for feature, words in WORDS.items()
        if feature not in unspoken and target.support[feature] == how
    ]


def _section(caller: Dialect, dialects: Mapping[str, Dialect]) -> str:
    lines = [f"## From {_title(caller)}", "", "| to | refused | ignored |", "|---|---|---|"]
    for target in dialects.values():
        if target is caller:
            continue
        refused, ignored = ("; ".join(lost(caller, target, how)) or "nothing" for how in _LOSSES)
        lines.append(f"| {_title(target)} | {refused} | {ignored} |")
    return "\n".join([*lines, ""])


def _title(dialect: Dialect) -> str:
    return TITLES.get(dialect.name, dialect.name)


def main(arguments: list[str]) -> None:
    """Write the page to the file that is named, or to standard output."""
    text = page(registry.DIALECTS)
    if arguments:
        Path(arguments[0]).write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
