"""Header lines of limits, in the dialects of OpenAI and Anthropic."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.limiter import Standing
from gateway.proxy.limit_lines import lines

WALL_MS = int(datetime(2026, 11, 21, 5, 0, 0, 123_000, UTC).timestamp() * 1000)
BOTH = Standing(600, 599, 0.1, 400_000, 398_000, 0.3)


def test_both_kinds_of_limit_are_told_as_openai_tells_them() -> None:
    assert lines(BOTH, anthropic=False, wall_ms=WALL_MS) == (
        b"x-ratelimit-limit-requests: 600\r\n"
        b"x-ratelimit-remaining-requests: 599\r\n"
        b"x-ratelimit-reset-requests: 100ms\r\n"
        b"x-ratelimit-limit-tokens: 400000\r\n"
        b"x-ratelimit-remaining-tokens: 398000\r\n"
        b"x-ratelimit-reset-tokens: 300ms\r\n"
    )


def test_anthropics_lines_come_besides_and_tell_moments() -> None:
    told = lines(Standing(5, 0, 59.9, 60, 1, 0.5), anthropic=True, wall_ms=WALL_MS)
    assert told.startswith(b"x-ratelimit-limit-requests: 5\r\n")
    assert told.endswith(
        b"anthropic-ratelimit-requests-limit: 5\r\n"
        b"anthropic-ratelimit-requests-remaining: 0\r\n"
        b"anthropic-ratelimit-requests-reset: 2026-11-21T05:01:01Z\r\n"
        b"anthropic-ratelimit-tokens-limit: 60\r\n"
        b"anthropic-ratelimit-tokens-remaining: 1\r\n"
        b"anthropic-ratelimit-tokens-reset: 2026-11-21T05:00:01Z\r\n"
    )


@pytest.mark.parametrize("anthropic", [False, True])
def test_a_kind_without_a_limit_has_no_lines(anthropic: bool) -> None:
    assert lines(Standing(), anthropic=anthropic, wall_ms=WALL_MS) == b""
    only = lines(Standing(5, 4, 12.0), anthropic=anthropic, wall_ms=WALL_MS)
    assert b"-tokens" not in only
    assert only.count(b"\r\n") == (6 if anthropic else 3)
    only = lines(Standing(None, 0, 0.0, 60, 1, 9.0), anthropic=anthropic, wall_ms=WALL_MS)
    assert b"requests" not in only
    assert only.count(b"\r\n") == (6 if anthropic else 3)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0s"),
        (0.02, "20ms"),
        (0.0001, "1ms"),
        (0.9991, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (1.23, "1.23s"),
        (59.9994, "1m0s"),
        (60.0, "1m0s"),
        (90.25, "1m30.25s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (7384.5, "2h3m4.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, told: str) -> None:
    found = lines(Standing(5, 0, seconds), anthropic=False, wall_ms=WALL_MS)
    assert f"reset-requests: {told}\r\n".encode() in found


_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@given(st.floats(0, 10**6))
def test_a_duration_is_never_shorter_than_the_wait_and_at_most_a_millisecond_longer(
    seconds: float,
) -> None:
    found = lines(Standing(5, 0, seconds), anthropic=False, wall_ms=WALL_MS).decode()
    told = found.split("reset-requests: ")[1].strip()
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", told)
    assert "".join(number + unit for number, unit in parts) == told
    total = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    assert -1e-9 <= total - seconds <= 0.001 + 1e-6
