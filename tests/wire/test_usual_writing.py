"""What is usual is written by a shorter way, to the same bytes: requests and answers.

Each short way is compared with the general one: on random requests and answers near what is usual,
and on everything that was recorded.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import bodies, records

from gateway.errors import GatewayError
from gateway.wire import (
    anthropic_messages_bodies,
    anthropic_messages_usual,
    gemini_answers,
    gemini_outgoing,
    gemini_usual,
    openai_chat_upstream,
    openai_chat_usual,
    registry,
)
from gateway.wire.conversation import (
    Answer,
    Block,
    Choice,
    Feature,
    Message,
    Reasoning,
    Refusal,
    Request,
    Role,
    Signature,
    Text,
    Thinking,
    Tool,
)
from gateway.wire.format import Asked, Toward
from gateway.wire.neutral import Usage

Written = tuple[bytes, list[str]]
Short = Callable[[Request, Toward], bytes | None]
General = Callable[[Request, Toward], Written]

WAYS: dict[str, tuple[Short, General]] = {
    "anthropic_messages": (
        anthropic_messages_usual.write_request,
        anthropic_messages_bodies.write_request,
    ),
    "gemini": (
        lambda request, toward: gemini_usual.write_request(request),
        gemini_outgoing.write_request,
    ),
    "openai_chat": (openai_chat_usual.write_request, openai_chat_upstream.write_request),
}
TOWARD = [
    Toward("gpt-4o", "openai"),
    Toward("gpt-5", "openai", 8),
    Toward("m", "mistral", 100_000),
    Toward("m", "groq"),
    Toward("gemini-2.5-flash", "google", 65_536),
    Toward("claude-sonnet-4-5", "anthropic", 64),
]

TEXTS = st.sampled_from(["", " ", "Hi", 'é\n"quoted"', "😀", "{}"])
BLOCKS: st.SearchStrategy[Block] = st.one_of(
    st.builds(Text, TEXTS),
    st.builds(Text, TEXTS),
    st.builds(Text, TEXTS, st.just("5m")),
    st.builds(Text, TEXTS, st.none(), st.just(Signature("gemini", "YWJj"))),
    st.builds(Refusal, TEXTS),
    st.builds(Thinking, TEXTS),
)
USUAL_BLOCKS = st.builds(Text, st.sampled_from(["Hi", "é", "\\"]))
CONTENT = st.one_of(
    st.lists(USUAL_BLOCKS, min_size=1, max_size=2), st.lists(BLOCKS, max_size=2)
).map(tuple)
COUNTS = st.sampled_from([None, 0, 1, 64, 70_000])
SETTINGS: dict[str, tuple[Feature, st.SearchStrategy[Any]]] = {
    "max_output_tokens": ("max_output_tokens", COUNTS),
    "temperature": ("temperature", st.sampled_from([None, 0, 0.2, 1.0, 1.5])),
    "top_p": ("top_p", st.sampled_from([None, 0.9, 1])),
    "top_k": ("top_k", st.sampled_from([None, None, 40])),
    "seed": ("seed", st.sampled_from([None, None, 5])),
    "stop": ("stop", st.sampled_from([(), (), ("x",)])),
    "reasoning": ("reasoning", st.sampled_from([None, None, Reasoning("low")])),
    "tools": ("tools", st.sampled_from([(), (), (Tool("f"),)])),
    "presence_penalty": ("presence_penalty", st.sampled_from([None, None, 0.0, 1])),
    "user": ("user", st.sampled_from([None, None, "ada"])),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Requests of plain text, and near that; what is in use is spelled."""
    settings = {name: draw(values) for name, (_, values) in SETTINGS.items()}
    settings = {name: value for name, value in settings.items() if value not in (None, ())}
    # Readers do not note a value that changes nothing, as a penalty of 0 does not.
    spelled: dict[Feature, str] = {SETTINGS[name][0]: name for name in settings if settings[name]}
    late = draw(st.sampled_from([False, False, True]))
    roles = st.sampled_from(["user", "assistant", "system"] if late else ["user", "assistant"])
    messages = draw(
        st.lists(
            st.builds(Message, roles, CONTENT, st.sampled_from([None, None, "Ada"])), max_size=4
        )
    )
    if any(message.name for message in messages):
        spelled["message_name"] = "messages.name"
    if any(message.role == "system" for message in messages):
        spelled["late_system"] = "messages"
    return Request(
        format=draw(st.sampled_from(["openai_chat", "anthropic_messages", "gemini"])),
        model="m",
        stream=draw(st.booleans()),
        system=draw(st.one_of(st.just(()), CONTENT)),
        messages=tuple(messages),
        spelled=spelled,
        **settings,
    )


def check(name: str, request: Request, toward: Toward) -> bool:
    """Compare; whether it was a usual one."""
    short, general = WAYS[name]
    found = short(request, toward)
    if found is None:
        return False
    assert (found, []) == general(request, toward)
    return True


@pytest.mark.parametrize("name", WAYS)
@given(request=requests(), toward=st.sampled_from(TOWARD))
def test_a_usual_request_is_written_as_the_general_writer_writes_it(
    name: str, request: Request, toward: Toward
) -> None:
    check(name, request, toward)


@pytest.mark.parametrize("toward", TOWARD)
@pytest.mark.parametrize("name", WAYS)
def test_plain_conversations_are_usual(name: str, toward: Toward) -> None:
    turns: tuple[Role, ...] = ("user", "assistant", "assistant", "user", "user")
    request = Request(
        format="anthropic_messages",
        model="m",
        stream=True,
        system=(Text("s"),),
        messages=tuple(Message(role, (Text(f"{role}é"),)) for role in turns),
        max_output_tokens=5,
        temperature=0.5,
        spelled={"max_output_tokens": "max_tokens", "temperature": "temperature"},
    )
    assert check(name, request, toward)


@pytest.mark.recorded
@pytest.mark.parametrize("name", WAYS)
def test_every_recorded_request_that_is_usual_is_written_as_the_general_writer_writes_it(
    name: str,
) -> None:
    usual = 0
    for record in records():
        if record.format not in registry.DIALECTS:
            continue
        path_model = "gemini-2.5-flash" if record.format == "gemini" else None
        dialect = registry.dialect(record.format)
        body = msgspec.json.encode(record.request_body)
        try:
            request = dialect.read_request(body, model=path_model, stream=None)
        except GatewayError:
            continue
        usual += sum([check(name, request, toward) for toward in TOWARD])
    assert usual > 100


ASKED = Asked(Request(format="gemini", model="m", stream=False), "gemini-2.5-flash", "0193-a", 5)
CHOICES = st.builds(
    Choice,
    CONTENT,
    st.sampled_from(["end", "max_tokens", "tool_call", "stop_sequence", "refusal", "pause"]),
)
USAGES = st.builds(
    Usage,
    st.integers(0, 99),
    st.integers(0, 99),
    cache_read_input_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    input_image_tokens=COUNTS,
    input_audio_tokens=COUNTS,
    output_audio_tokens=COUNTS,
    input_tool_use_tokens=COUNTS,
)


@given(st.lists(CHOICES, min_size=1, max_size=2).map(tuple), st.one_of(st.none(), USAGES))
def test_a_usual_gemini_answer_is_written_as_the_general_writer_writes_it(
    choices: tuple[Choice, ...], usage: Usage | None
) -> None:
    answer = Answer(id="a", model="m", choices=choices, usage=usage)
    found = gemini_usual.write_answer(answer, ASKED)
    assert found in (None, gemini_answers.write_answer(answer, ASKED))


@pytest.mark.recorded
def test_every_recorded_answer_that_is_usual_is_written_as_the_general_writer_writes_it() -> None:
    usual = 0
    for record in bodies():
        if record.format not in registry.DIALECTS:
            continue
        answer = registry.dialect(record.format).read_answer(record.body)
        if answer is None or answer.error is not None:
            continue
        found = gemini_usual.write_answer(answer, ASKED)
        if found is not None:
            assert found == gemini_answers.write_answer(answer, ASKED), record.id
            usual += 1
    assert usual > 100
