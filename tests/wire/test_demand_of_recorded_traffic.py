"""What was really used stays within what the request's body was said to use at most."""

import pytest
from wire_records import FORMAT_OF, Record, records

from gateway.errors import GatewayError
from gateway.ledger.worst_case import IMAGE_TOKENS
from gateway.wire import demand
from gateway.wire.envelope import peek
from gateway.wire.neutral import Demand

pytestmark = pytest.mark.recorded

LEADS_WITH_ITS_OWN_PROMPT = {"6c53a12ecefe489b2095"}
"""Venice: 1,602 tokens for a body of 536 bytes."""

THINKS_BEYOND_THE_LIMIT = {
    "75198c46156331a73770", "4ed851a3d917c80b08ad", "6de1feb8b223c1e97b5a",
}  # fmt: skip
"""xAI, and Qwen at a host: reasoning does not count towards their limit on output."""


def requests() -> list[tuple[Record, Demand]]:
    found = []
    for record in records():
        body = bytes(record.request_body)
        if record.endpoint in FORMAT_OF and body.startswith(b"{"):
            try:
                seen = peek(body, record.format)
            except GatewayError:
                continue
            found.append((record, demand.read(body, seen, record.format)))
    return found


def test_input_stays_within_the_bound_unless_it_is_known_to_have_none() -> None:
    compared, beyond = 0, set()
    for record, found in requests():
        if record.expected_usage is not None and not found.unbounded:
            compared += 1
            bound = found.input_bytes - found.image_bytes + found.template_tokens
            if record.expected_usage["input"] > bound + found.images * IMAGE_TOKENS:
                beyond.add(record.id)
    assert compared > 1000
    assert beyond == LEADS_WITH_ITS_OWN_PROMPT


def test_output_stays_within_the_limit_that_the_body_names() -> None:
    compared, beyond = 0, set()
    for record, found in requests():
        if record.expected_usage is None or found.unbounded:
            continue
        if found.max_output_tokens:
            compared += 1
            if record.expected_usage["output"] > found.max_output_tokens * found.choices:
                beyond.add(record.id)
    assert compared > 300
    assert beyond == THINKS_BEYOND_THE_LIMIT


def test_kinds_of_tokens_that_were_used_had_been_foreseen() -> None:
    compared = 0
    for record, found in requests():
        for kind in ("input_audio", "output_audio", "output_image"):
            if record.expected_usage is not None and record.expected_usage.get(kind):
                compared += 1
                assert getattr(found, kind), f"{record.id}: {kind}"
    assert compared > 5


def test_common_requests_are_not_taken_for_unbounded() -> None:
    special = {
        "server_tool", "web_search", "document", "audio", "image", "cache_read", "thinking",
        "thinking_in_history",
    }  # fmt: skip
    plain = [found for record, found in requests() if not special & set(record.tags)]
    taken = sum(found.unbounded for found in plain)
    assert taken < 0.08 * len(plain), f"{taken} of {len(plain)}"
