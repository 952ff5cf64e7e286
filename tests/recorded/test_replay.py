"""Every recorded exchange through a running gateway: same bytes, same status, right receipt.

A record's answer is what the upstream says, in one piece, at random cuts and byte by byte, under
all three framings of HTTP/1.1. By default each record is cut byte by byte in windows; with
GATEWAY_TEST_SCALE=full everywhere, up to EVERY_BYTE_MAX bytes of its framed body.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import FULL, Answer, Call, Client, Running, gateway_before, scenario
from recorded_traffic import Mode, Record, cut, framing, offsets, records, shown_usage, wire

pytestmark = pytest.mark.recorded

EVERY_BYTE_MAX = 16 * 1024 if FULL else 192
CLIENTS = 48
PASSED_ON = ("content-type", "retry-after", "openai-version", "cache-control", "server-timing")


class Replay:
    """One pass over all records in one mode; collects what is wrong instead of stopping."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.wrong: list[str] = []
        self.records = self.bodies = self.usages = self.reported = 0

    async def answer(self, call: Call) -> None:
        """The upstream's script."""
        record = records()[int(call.get(b"x-record") or b"-1")]
        head, body = wire(record, self.mode)
        pieces = cut(body, offsets(body, self.mode, record.id, every_byte_max=EVERY_BYTE_MAX))
        if self.mode == "whole":
            pieces, head = [head + body], b""
        elif self.mode == "cuts":
            pieces = cut(head + body, offsets(head + body, "cuts", record.id, every_byte_max=0))
            head = b""
        self._check_request(record, call)
        await call.send(*([head] if head else []), *pieces)
        if framing(record, self.mode) == "close":
            call.close()

    def _check_request(self, record: Record, call: Call) -> None:
        sent = record.request
        if call.body != sent:
            was, now = msgspec.json.decode(sent), msgspec.json.decode(call.body)
            if record.stripped:
                was["stream_options"] = (was.get("stream_options") or {}) | {"include_usage": True}
            if "model" in was:
                was["model"] = was["model"].removeprefix("openai/")
            if was != now:
                self.note(record, "the upstream got another request body")
        if call.get(b"accept-encoding") != b"identity":
            self.note(record, "the upstream was not asked for identity")

    def note(self, record: Record, problem: str) -> None:
        self.wrong.append(f"{record.id} {record.endpoint}: {problem}")

    async def run(self, gateway: Running) -> None:
        todo = iter(enumerate(records()))

        async def work() -> None:
            client = await gateway.client()
            for index, record in todo:
                answer = await self._call(client, index, record)
                self._check(record, answer)
                name, value = record.credential
                found = await client.request(
                    "GET", f"/v1/receipts/{answer.receipt_id}", [(name, value)]
                )
                assert found.status == 200, (record.id, found)
                self._check_receipt(record, found.json())

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(work())

    async def _call(self, client: Client, index: int, record: Record) -> Answer:
        fields = [record.credential, (b"x-record", b"%d" % index)]
        for name, value in (record.request_headers or {}).items():
            if name not in ("accept-encoding",):
                fields.append((name.encode(), value.encode("latin-1")))
        return await client.request(record.method, record.target, fields, record.request)

    def _check(self, record: Record, answer: Answer) -> None:
        self.records += 1
        if answer.status != record.status:
            self.note(record, f"status {answer.status}: {answer.body[:200]!r}")
        elif not answer.complete or answer.body != record.expected_body:
            self.note(record, f"other bytes: {len(answer.body)} of {len(record.expected_body)}")
        else:
            self.bodies += 1
        for name, value in record.fields:
            text = name.decode()
            if text in PASSED_ON or "ratelimit" in text or text.startswith("x-ms-"):
                if answer.all(name) != [value]:
                    self.note(record, f"header {text} did not pass")
            elif text in ("x-request-id", "request-id") and (
                value not in answer.all(b"x-upstream-request-id")
                or answer.all(name) != [answer.receipt_id.encode()]
            ):
                self.note(record, f"header {text} is not under a name of its own")

    def _check_receipt(self, record: Record, receipt: dict[str, Any]) -> None:
        status = "succeeded" if record.status < 400 and record.ends else "failed"
        stage = receipt["failure"] and receipt["failure"]["stage"]
        expected = None
        if status == "failed":
            expected = "upstream_status" if record.status >= 400 else "upstream_stream"
        if (receipt["status"], stage, receipt["http_status"]) != (status, expected, record.status):
            self.note(record, f"receipt says {receipt['status']}, {receipt['failure']}")
        usage = receipt["usage"]
        if usage["source"] != record.expected_source:
            self.note(record, f"usage is {usage['source']}, not {record.expected_source}")
        elif record.expected_usage is not None and record.status < 400:
            self.reported += 1
            want = shown_usage(record)
            have = {name: usage.get(name) for name in want}
            if have == want and _besides(usage) == _expected_besides(record):
                self.usages += 1
            else:
                self.note(record, f"usage {have} instead of {want}")
        if receipt["cost"]["billed"]:
            self.note(record, "billed, though the caller's own key was used")


def _besides(usage: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Provider passes billed besides the top level, as (kind, model, input, output)."""
    return [
        (one["kind"], one.get("model"), one.get("input_tokens", 0), one.get("output_tokens", 0))
        for one in usage.get("billed_besides", ())
    ]


def _expected_besides(record: Record) -> list[tuple[Any, ...]]:
    assert record.expected_usage is not None
    return [
        (
            one["type"],
            one["model"],
            one["input_uncached"] + one["cached_input_read"] + one["cache_write"],
            one["output"],
        )
        for one in record.expected_usage.get("billed_besides", ())
    ]


@pytest.mark.parametrize("mode", ["whole", "cuts", "bytes"])
@scenario
async def test_every_record_passes_byte_for_byte_and_is_metered(mode: Mode, tmp_path: Path) -> None:
    replay = Replay(mode)
    assert records()
    async with gateway_before(tmp_path, replay.answer) as (gateway, _):
        await replay.run(gateway)
    print(  # noqa: T201 - the summary of the run, shown with -s or -rP
        f"\n{mode}: {replay.records} records, {replay.bodies} bodies identical, "
        f"{replay.usages} of {replay.reported} usages equal"
    )
    assert not replay.wrong, f"{len(replay.wrong)}:\n" + "\n".join(replay.wrong[:20])
    assert replay.records == replay.bodies == len(records())
    assert replay.usages == replay.reported > 1900
