"""Each switch seen working: on the wire for what breaks it, in every format for what it says."""

import time
from typing import Any

import aiohttp
import orjson
import pytest
from demo_provider import (
    CHAT,
    FORMATS,
    GEMINI,
    GEMINI_ARRAY,
    MESSAGES,
    RESPONSES,
    Format,
    RawAnswer,
    provider,
)

QUICK = "+first=0+pace=0"


def at_once(answer: RawAnswer) -> bool:
    """Nothing has to come at all."""
    return True


in_every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)


@in_every_format
async def test_an_unknown_switch_is_a_400_that_names_it(fmt: Format) -> None:
    async with provider() as demo:
        model = "demo+explode=3"
        answer = await demo.post(fmt.path(model, True), fmt.body(model, "x", True))
        assert answer.status == 400
        assert "explode" in answer.json()["error"]["message"]


STATUS_TYPES: list[tuple[Format, int, dict[str, Any]]] = [
    (CHAT, 400, {"type": "invalid_request_error"}),
    (CHAT, 401, {"type": "invalid_request_error", "code": "invalid_api_key"}),
    (CHAT, 404, {"code": "model_not_found"}),
    (CHAT, 429, {"type": "requests", "code": "rate_limit_exceeded"}),
    (CHAT, 500, {"type": "server_error"}),
    (RESPONSES, 503, {"type": "server_error", "code": "service_unavailable"}),
    (MESSAGES, 401, {"type": "authentication_error"}),
    (MESSAGES, 429, {"type": "rate_limit_error"}),
    (MESSAGES, 500, {"type": "api_error"}),
    (MESSAGES, 529, {"type": "overloaded_error", "message": "Overloaded"}),
    (GEMINI, 403, {"code": 403, "status": "PERMISSION_DENIED"}),
    (GEMINI, 429, {"code": 429, "status": "RESOURCE_EXHAUSTED"}),
    (GEMINI, 503, {"code": 503, "status": "UNAVAILABLE"}),
]


@pytest.mark.parametrize(("fmt", "status", "expected"), STATUS_TYPES, ids=str)
async def test_a_status_comes_in_the_formats_own_envelope(
    fmt: Format, status: int, expected: dict[str, Any]
) -> None:
    async with provider() as demo:
        model = f"demo+status={status}{QUICK}"
        answer = await demo.post(fmt.path(model, True), fmt.body(model, "x", True))
        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/json")
        document = answer.json()
        assert document["error"].items() >= expected.items()
        if fmt is MESSAGES:
            assert document["type"] == "error"
            assert document["request_id"] == answer.headers["request-id"]


async def test_retry_after_is_told_as_each_provider_tells_it() -> None:
    async with provider() as demo:
        model = "demo+status=429+retry_after=7"
        answer = await demo.post(CHAT.path(model, False), CHAT.body(model, "x", False))
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("7", "7000")
        answer = await demo.post(MESSAGES.path(model, False), MESSAGES.body(model, "x", False))
        assert answer.headers["retry-after"] == "7"
        answer = await demo.post(GEMINI.path(model, False), GEMINI.body(model, "x", False))
        assert "retry-after" not in answer.headers
        [info] = answer.json()["error"]["details"]
        assert info["@type"].endswith("RetryInfo")
        assert info["retryDelay"] == "7s"
        model = "demo+status=500"
        answer = await demo.post(CHAT.path(model, False), CHAT.body(model, "x", False))
        assert "retry-after" not in answer.headers


async def test_a_redirect_can_be_asked_for() -> None:
    async with provider() as demo:
        answer = await demo.post("/v1/chat/completions", CHAT.body("demo+status=307", "x", False))
        assert (answer.status, answer.headers["location"]) == (307, "/redirected")


async def test_delay_holds_the_head_back_and_first_only_the_first_event() -> None:
    async with provider() as demo:
        url = f"http://127.0.0.1:{demo.port}/v1/chat/completions"
        headers = {"authorization": "Bearer any"}
        for model, head_late in (("demo+delay=400+first=0", True), ("demo+first=400", False)):
            began = time.monotonic()
            body = CHAT.body(f"{model}+pace=0+tokens=3", "x", True)
            async with demo.session.post(url, json=body, headers=headers) as answer:
                head_s = time.monotonic() - began
                await answer.content.readany()
                first_s = time.monotonic() - began
                await answer.read()
            assert (head_s >= 0.4) == head_late
            assert first_s >= 0.4


async def test_pace_spaces_the_events_of_a_stream() -> None:
    async with provider() as demo:
        began = time.monotonic()
        body = CHAT.body("demo+first=0+pace=30+tokens=4", "x", True)
        answer = await demo.post("/v1/chat/completions", body)
        # A role, four tokens, a finish, usage and the terminal, with a pause between each.
        assert answer.body.count(b"data: ") == 8
        assert time.monotonic() - began >= 7 * 0.03


@in_every_format
@pytest.mark.parametrize("after", [0, 3])
async def test_a_stream_turns_into_the_formats_error_event(fmt: Format, after: int) -> None:
    async with provider() as demo:
        model = f"demo+error={after}+pace=0+first=0"
        answer = await demo.post(fmt.path(model, True), fmt.body(model, "x", True))
        assert answer.status == 200
        assert fmt.terminal not in answer.body
        if fmt is GEMINI_ARRAY:
            chunks = orjson.loads(answer.body)
            assert len(chunks) == after + 1
            assert chunks[-1]["error"]["status"] == "UNAVAILABLE"
            return
        line_end = b"\r\n\r\n" if fmt is GEMINI else b"\n\n"
        blocks = answer.body.removesuffix(line_end).split(line_end)
        assert len(blocks) == after + 1
        name, _, data = blocks[-1].rpartition(b"data: ")
        event = orjson.loads(data)
        if fmt is RESPONSES:
            assert name == (b"event: error\n" if after == 0 else b"event: response.failed\n")
            assert event["sequence_number"] == after
            assert (event if after == 0 else event["response"]["error"])["code"] == "server_error"
        elif fmt is MESSAGES:
            assert name == b"event: error\n"
            assert event["error"]["type"] == "overloaded_error"
        else:
            assert name == b""
            assert event["error"]["message"]


@in_every_format
async def test_an_error_asked_for_late_still_takes_the_terminals_place(fmt: Format) -> None:
    async with provider() as demo:
        model = "demo+error=99999+tokens=3+pace=0+first=0"
        answer = await demo.post(fmt.path(model, True), fmt.body(model, "x", True))
        assert b"error" in answer.body
        if fmt not in (GEMINI, GEMINI_ARRAY):
            assert fmt.terminal not in answer.body


@in_every_format
async def test_an_undivided_answer_with_an_error_is_a_200_with_the_envelope(fmt: Format) -> None:
    async with provider() as demo:
        model = f"demo+error{QUICK}"
        answer = await demo.post(fmt.path(model, False), fmt.body(model, "x", False))
        assert answer.status == 200
        assert answer.json()["error"]["message"]


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_usage_can_be_left_out_everywhere(fmt: Format, stream: bool) -> None:
    async with provider() as demo:
        model = f"demo+nousage{QUICK}"
        answer = await demo.post(fmt.path(model, stream), fmt.body(model, "x", stream))
        said = fmt.read_stream(answer.body) if stream else fmt.read_document(answer.json())
        assert said.text
        assert (said.input_tokens, said.output_tokens) == (None, None)


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_a_body_can_be_anything_but_json(fmt: Format, stream: bool) -> None:
    async with provider() as demo:
        model = f"demo+badjson{QUICK}"
        answer = await demo.post(fmt.path(model, stream), fmt.body(model, "x", stream))
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("application/json")
        with pytest.raises(orjson.JSONDecodeError):
            answer.json()


@in_every_format
async def test_cut_resets_the_connection_after_so_many_bytes(fmt: Format) -> None:
    async with provider() as demo:
        model = f"demo+cut=100{QUICK}"
        answer = await demo.raw(fmt.path(model, True), fmt.body(model, "x", True))
        assert answer.ending == "reset"
        assert answer.head.startswith(b"HTTP/1.1 200 OK")
        assert len(answer.chunked_body) == 100


@in_every_format
async def test_stall_falls_silent_after_so_many_bytes_and_stays_open(fmt: Format) -> None:
    async with provider() as demo:
        model = f"demo+stall=100{QUICK}"
        answer = await demo.raw(
            fmt.path(model, True),
            fmt.body(model, "x", True),
            silent_once=lambda answer: len(answer.chunked_body) >= 100,
        )
        assert answer.ending == "silence"
        assert len(answer.chunked_body) == 100


@in_every_format
async def test_close_ends_the_message_properly_but_too_early(fmt: Format) -> None:
    async with provider() as demo:
        model = f"demo+close=100{QUICK}"
        answer = await demo.raw(fmt.path(model, True), fmt.body(model, "x", True))
        assert answer.ending == "end"
        assert answer.rest.endswith(b"\r\n0\r\n\r\n")
        assert len(answer.chunked_body) == 100


def promised(answer: RawAnswer) -> int:
    """The length that the head tells; -1 where the head has not come."""
    _, told, length = answer.head.lower().partition(b"content-length: ")
    return int(length.split(b"\r\n")[0]) if told else -1


@pytest.mark.parametrize(
    ("switch", "ending"), [("cut", "reset"), ("stall", "silence"), ("close", "end")]
)
@pytest.mark.parametrize("at", [0, 1, 50, 10_000_000])
async def test_a_document_breaks_at_any_byte_too(switch: str, ending: str, at: int) -> None:
    def all_came(answer: RawAnswer) -> bool:
        return switch == "stall" and len(answer.rest) == min(at, promised(answer))

    async with provider() as demo:
        body = CHAT.body(f"demo+{switch}={at}+first=0", "x", False)
        answer = await demo.raw("/v1/chat/completions", body, silent_once=all_came)
        assert answer.ending == ending
        assert len(answer.rest) == min(at, promised(answer))
        if switch == "close":
            assert promised(answer) == len(answer.rest)
        else:
            assert promised(answer) > 100


async def test_cut_delivers_all_of_a_large_part_first() -> None:
    async with provider() as demo:
        body = CHAT.body(f"demo+tokens=20000+cut=3000000+framing=close{QUICK}", "x", True)
        answer = await demo.raw("/v1/chat/completions", body)
        assert answer.ending == "reset"
        assert len(answer.rest) == 3_000_000


async def test_reset_sends_nothing_at_all() -> None:
    async with provider() as demo:
        answer = await demo.raw("/v1/chat/completions", CHAT.body("demo+reset", "x", True))
        assert (answer.received, answer.ending) == (b"", "reset")


async def test_hang_neither_answers_nor_closes() -> None:
    async with provider() as demo:
        answer = await demo.raw(
            "/v1/chat/completions", CHAT.body("demo+hang", "x", True), silent_once=at_once
        )
        assert (answer.received, answer.ending) == (b"", "silence")


async def test_garbage_is_not_http() -> None:
    async with provider() as demo:
        answer = await demo.raw("/v1/chat/completions", CHAT.body("demo+garbage", "x", True))
        assert answer.ending == "end"
        assert answer.received
        assert not answer.received.startswith(b"HTTP/")
        with pytest.raises(aiohttp.ClientResponseError):
            await demo.post("/v1/chat/completions", CHAT.body("demo+garbage", "x", True))


@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_the_end_of_a_body_can_be_told_in_three_ways(stream: bool) -> None:
    async with provider() as demo:
        bodies = {}
        for framing in ("chunked", "length", "close"):
            body = CHAT.body(f"demo+framing={framing}+tokens=9{QUICK}", "x", stream)
            whole = {"length": lambda answer: len(answer.rest) == promised(answer)}.get(
                framing, lambda answer: answer.rest.endswith(b"\r\n0\r\n\r\n")
            )
            answer = await demo.raw("/v1/chat/completions", body, silent_once=whole)
            head = answer.head.lower()
            assert (b"transfer-encoding: chunked" in head) == (framing == "chunked")
            assert (b"content-length:" in head) == (framing == "length")
            assert (b"connection: close" in head) == (framing == "close")
            # Only a body that ends with its connection ends the connection.
            assert answer.ending == ("end" if framing == "close" else "silence")
            bodies[framing] = answer.chunked_body if framing == "chunked" else answer.rest
        read = CHAT.read_stream if stream else lambda body: CHAT.read_document(orjson.loads(body))
        assert read(bodies["chunked"]) == read(bodies["length"]) == read(bodies["close"])


async def test_http_1_0_gets_no_chunks() -> None:
    async with provider() as demo:
        body = CHAT.body(f"demo{QUICK}", "x", True)
        answer = await demo.raw("/v1/chat/completions", body, version="1.0")
        assert b"chunked" not in answer.head.lower()
        assert answer.ending == "end"
        assert CHAT.read_stream(answer.rest).text


async def test_a_connection_serves_many_requests() -> None:
    async with provider() as demo:
        connector = aiohttp.TCPConnector(limit=1)
        made = []
        trace = aiohttp.TraceConfig()

        async def note(*_: Any) -> None:
            made.append(1)

        trace.on_connection_create_end.append(note)
        url = f"http://127.0.0.1:{demo.port}/v1/chat/completions"
        headers = {"authorization": "Bearer any"}
        async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session:
            for stream in (True, False, True, False):
                body = CHAT.body(f"demo{QUICK}", "x", stream)
                async with session.post(url, json=body, headers=headers) as answer:
                    assert await answer.read()
        assert len(made) == 1


async def test_stopping_lets_go_of_hung_and_slow_connections() -> None:
    async with provider() as demo:
        for switch in ("hang", "delay=600000"):
            body = CHAT.body(f"demo+{switch}+first=0", "x", True)
            answer = await demo.raw("/v1/chat/completions", body, silent_once=at_once)
            assert answer.ending == "silence"
        url = f"http://127.0.0.1:{demo.port}/v1/chat/completions"
        headers = {"authorization": "Bearer any"}
        hung = await demo.session.post(
            url, json=CHAT.body("demo+stall=10+first=0", "x", True), headers=headers
        )
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 3
    hung.close()
