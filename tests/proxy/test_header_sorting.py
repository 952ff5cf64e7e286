"""`proxy.headers` as pure functions: what holds for every header section there can be."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy import headers

SLOTS = (b"Authorization", b"X-Api-Key", b"x-goog-api-key", b"API-Key")
NAMES = st.sampled_from(
    [*SLOTS, b"Connection", b"Cookie", b"X-One", b"x-two", b"Host", b"TE", b"Content-Type", b"Via"]
)
VALUES = st.sampled_from(
    [
        b"Bearer sk-1",
        b"sk-2",
        b"gw-3",
        b"",
        b"close",
        b"X-One, x-two",
        b"keep-alive",
        b" x ",
        b"Basic z",
    ]
)
SECTIONS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(SECTIONS)
def test_no_credential_and_nothing_of_one_hop_ever_goes_on(
    section: list[tuple[bytes, bytes]],
) -> None:
    found = headers.read(section)
    names = [line.partition(b":")[0].lower() for line in found.forward.split(b"\r\n") if line]
    assert not {name.lower() for name in SLOTS} & set(names)
    assert not {b"connection", b"cookie", b"host", b"te", b"via"} & set(names)
    listed = b",".join(value for name, value in section if name == b"Connection").lower()
    assert not {token.strip() for token in listed.split(b",")} & set(names)


@given(SECTIONS)
def test_what_goes_on_keeps_order_and_bytes(section: list[tuple[bytes, bytes]]) -> None:
    found = headers.read(section)
    lines = [b"%b: %b" % field for field in section]
    rest = iter(lines)
    assert all(line in rest for line in found.forward.split(b"\r\n") if line)


def test_the_first_value_of_a_slot_counts_and_a_gateway_key_before_all() -> None:
    found = headers.read(
        [
            (b"Authorization", b"bearer   own-1 "),
            (b"authorization", b"Bearer own-2"),
            (b"x-api-key", b" gw-key "),
        ]
    )
    assert found.credentials == {b"authorization": b"own-1", b"x-api-key": b"gw-key"}
    assert headers.choose(found.credentials, b"gw-") == (b"x-api-key", b"gw-key")
    assert headers.choose({b"authorization": b"own-1"}, b"gw-") == (b"authorization", b"own-1")
    assert headers.choose({b"authorization": b""}, b"gw-") is None
    assert headers.choose({}, b"gw-") is None


def test_an_authorization_of_another_scheme_is_no_credential() -> None:
    assert headers.read([(b"Authorization", b"Basic dTpw")]).credentials == {b"authorization": b""}


@given(
    st.lists(st.sampled_from(["key=a", "alt=sse", "monkey=b", "k", "key=", "a=key=c"]), max_size=6)
)
def test_only_key_is_taken_out_of_a_query(parts: list[str]) -> None:
    rest, key = headers.take_key("&".join(parts))
    assert rest.split("&") == ([part for part in parts if not part.startswith("key=")] or [""])
    keys = [part[4:] for part in parts if part.startswith("key=")]
    assert key == (keys[0].encode() if keys else None)


@given(st.text(min_size=1, max_size=20))
def test_a_key_parameter_is_decoded(text: str) -> None:
    if all(not 0xD800 <= ord(char) < 0xE000 for char in text):
        assert headers.take_key(f"a=b&key={quote(text, safe='')}") == ("a=b", text.encode())


def test_an_answers_lines_stay_as_they_came() -> None:
    lines = [
        b"HTTP/1.1 200 OK",
        b"Content-Type: application/JSON; charset=utf-8",
        b"content-length:  12",
        b"X-Odd:no space",
        b"REQUEST-ID: req_1",
        b"Set-Cookie: a=b",
        b"Connection: close, X-Hop",
        b"x-hop: 1",
        b"Content-Encoding: gzip",
        b"X-Key: the-secret-key",
    ]
    for _ in range(2):  # the second time from what was remembered
        found = headers.answer(list(lines), b"secret-key")
        assert found.lines == (
            b"Content-Type: application/JSON; charset=utf-8\r\nX-Odd:no space\r\n"
            b"X-Upstream-Request-Id: req_1\r\nContent-Encoding: gzip\r\n"
        )
        assert found.content_type == b"application/json"
        assert found.content_length == b"12"
        assert found.content_encoding == b"gzip"
        assert found.request_id == b"req_1"


def test_an_answer_without_headers_has_no_lines() -> None:
    found = headers.answer([b"HTTP/1.1 200 OK"], b"")
    assert (found.lines, found.content_type, found.content_length) == (b"", b"", None)


LINES = [b"X-A: 1", b" folded secret", b"\tfolded", b"X-B: secret", b"Set-Cookie: c"]


@given(st.lists(st.sampled_from([*LINES, b"Connection: X-A"]), max_size=8))
def test_every_line_that_is_left_is_whole(lines: list[bytes]) -> None:
    found = headers.answer([b"HTTP/1.1 200 OK", *lines], b"secret")
    left = found.lines.split(b"\r\n")
    assert left.pop() == b""
    assert all(line == b"X-A: 1" for line in left)
    assert not (b"Connection: X-A" in lines and left)


def test_rate_limits_of_the_operators_account_reach_only_callers_with_their_own_key() -> None:
    limits = [
        b"x-ratelimit-limit-requests: 10000",
        b"X-RateLimit-Reset-Tokens: 6m0s",
        b"anthropic-ratelimit-unified-status: allowed",
        b"Anthropic-RateLimit-Requests-Limit: 4000",
        b"RateLimit-Policy: 60;w=60",
    ]
    lines = [b"HTTP/1.1 200 OK", b"X-A: 1", *limits, b"Retry-After: 2", b"X-Ratelimited: no"]
    rest = b"X-A: 1\r\nRetry-After: 2\r\nX-Ratelimited: no\r\n"
    told = b"".join(b"%b\r\n" % line for line in limits)
    for limited in (False, True, False, True):  # the later times from what was remembered
        found = headers.answer(list(lines), b"", limited=limited)
        assert found.lines == (rest if limited else rest.replace(b"Retry", told + b"Retry"))
