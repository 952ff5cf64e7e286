"""Base URLs that an admin sets: one spelling, public addresses, no way around either."""

import asyncio
import ipaddress
import re
import socket
from pathlib import Path

import msgspec
import pytest
from guarded_site import (
    PUBLIC,
    PUBLIC_6,
    Secure,
    Sequenced,
    Told,
    counting,
    only,
    origin_of,
    refusal,
    resolve,
    upstreams,
)
from harness import scenario
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Conflict
from gateway.proxy.guard import Guard, check_base_url, is_public
from gateway.proxy.upstream import parse_base_url

GUARD = Guard(resolve)

# --- addresses --------------------------------------------------------------------------------

INSIDE_4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200",
    "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.0.1",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
]  # fmt: skip
INSIDE_6 = [
    "::", "::1", "::7f00:1", "fe80::1", "fe80::1%1", "2606:4700::1%1", "fec0::1", "fc00::1",
    "fd00:ec2::254", "ff02::1", "ff0e::1", "100::1", "2001:db8::1", "2001::1", "2001:10::1",
    "2001:20::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "64:ff9b:1::7f00:1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1",
]  # fmt: skip
OUTSIDE = [
    "8.8.8.8", "1.1.1.1", "104.18.7.192", "100.63.255.255", "100.128.0.0", "172.15.255.255",
    "172.32.0.0", "169.253.255.255", "223.255.255.255", "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200a", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888",
]  # fmt: skip


@pytest.mark.parametrize("address", [*INSIDE_4, *INSIDE_6, "", "localhost", "8.8.8.8.", "8.8.8"])
def test_an_address_that_is_not_everybodys_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@given(st.sampled_from(INSIDE_4), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}"]))
def test_an_inside_address_stays_inside_when_it_is_wrapped(address: str, wrapping: str) -> None:
    assert not is_public(wrapping.format(address))


@given(st.ip_addresses())
def test_nothing_is_public_that_python_knows_to_be_special(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    wraps = isinstance(ip, ipaddress.IPv6Address) and ip not in ipaddress.ip_network("2000::/3")
    if is_public(str(ip)) and not wraps:
        special = ("is_private", "is_multicast", "is_reserved", "is_loopback", "is_link_local")
        assert ip.is_global
        assert not [name for name in special if getattr(ip, name)]


# --- spellings --------------------------------------------------------------------------------

# `{}` is the port that a listener on this machine counts connections on.
BYPASSES = [
    # Loopback, plainly and in every form that a C library or a browser reads as it.
    "https://127.0.0.1:{}", "https://127.0.0.1:{}/", "https://127.1:{}", "https://127.0.1:{}",
    "https://0177.0.0.1:{}", "https://0177.0.0.01:{}", "https://0x7f.0.0.1:{}",
    "https://0x7f.0x0.0x0.0x1:{}", "https://0X7F.1:{}", "https://0x7f000001:{}",
    "https://0x7F000001:{}", "https://2130706433:{}", "https://017700000001:{}",
    "https://127.0.0.1.:{}", "https://127.255.255.254:{}", "https://00127.0.0.1:{}",
    "https://127.0.0.0x1:{}", "https://127.0.0.01:{}", "https://0.0.0.0:{}", "https://0:{}",
    "https://0x0:{}", "https://000:{}", "https://0.0:{}", "https://256.0.0.1:{}",
    "https://4294967297:{}", "https://127.0.0.1%00.public.test:{}",
    # IPv6, and IPv4 inside it.
    "https://[::1]:{}", "https://[::]:{}", "https://[0:0:0:0:0:0:0:1]:{}",
    "https://[0000:0000::0001]:{}", "https://[::ffff:127.0.0.1]:{}", "https://[::FFFF:7F00:1]:{}",
    "https://[0:0:0:0:0:ffff:7f00:0001]:{}", "https://[::127.0.0.1]:{}",
    "https://[::ffff:0.0.0.0]:{}", "https://[64:ff9b::127.0.0.1]:{}",
    "https://[64:ff9b::7f00:1]:{}", "https://[64:ff9b:1::7f00:1]:{}", "https://[2002:7f00:1::]:{}",
    "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]:{}", "https://[fe80::5efe:7f00:1]:{}",
    "https://[fe80::1]:{}", "https://[fe80::1%25lo]:{}", "https://[fe80::1%lo]:{}",
    "https://[::1%25lo]:{}", "https://[fc00::1]:{}", "https://[fd00:ec2::254]:{}",
    "https://[ff02::1]:{}", "https://[::1:{}", "https://::1:{}", "https://[127.0.0.1]:{}",
    "https://[v1.127.0.0.1]:{}", "https://[::1].public.test:{}",
    # Who is the host: user, backslash, fragment, query, escapes, white space.
    "https://public.test@127.0.0.1:{}", "https://public.test:x@127.0.0.1:{}",
    "https://public.test:443@127.0.0.1:{}/", "https://127.0.0.1:{}@public.test",
    "https://127.0.0.1:{}\\@public.test", "https://public.test\\@127.0.0.1:{}",
    "https://public.test\\.127.0.0.1:{}", "https://127.0.0.1:{}#@public.test",
    "https://127.0.0.1:{}?@public.test", "https://public.test#@127.0.0.1:{}",
    "https://public.test%40127.0.0.1:{}", "https://127%2e0%2e0%2e1:{}", "https://%31%32%37.1:{}",
    "https://public.test%2f@127.0.0.1:{}", "https://127.0.0.1:{}%2f@public.test",
    " https://127.0.0.1:{}", "https://127.0.0.1 :{}", "https:// 127.0.0.1:{}",
    "https://127.0.0.1:{}\t", "https://127.0.\t0.1:{}", "https://127.0.0.1\n:{}",
    "https://public.test\r\nHost: x@127.0.0.1:{}", "https://127.0.0.1\x00.public.test:{}",
    "https:\\\\127.0.0.1:{}", "https:/127.0.0.1:{}", "https:127.0.0.1:{}", "https:///127.0.0.1:{}",
    "//127.0.0.1:{}", "127.0.0.1:{}", "https://127.0.0.1:0{}", "https://127.0.0.1:+{}",
    "https://127.0.0.1:{}:443", "https://:{}", "https://127.0.0.1:{}/../..", "https://-.test:{}",
    # Look-alikes of digits and dots, and other scripts.
    "https://１２７.0.0.1:{}", "https://①②⑦.0.0.1:{}", "https://127。0。0。1:{}",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{}", "https://xn--80ak6aa92e.test:{}", "https://XN--80AK6AA92E.test:{}",
    # Other schemes.
    "http://127.0.0.1:{}", "http://public.test:{}", "ftp://127.0.0.1:{}", "file:///etc/passwd#{}",
    "gopher://127.0.0.1:{}/_GET", "unix:///run/x.sock#{}", "javascript:127.0.0.1:{}", "{}", "",
    "builtin:demo",
    # Names.
    "https://localhost:{}", "https://LocalHost:{}", "https://localhost.:{}",
    "https://sub.localhost:{}", "https://localhost.localdomain:{}",
    "https://127.0.0.1.nip.test:{}", "https://private.test:{}", "https://mixed.test:{}",
    "https://mixed6.test:{}", "https://mapped.test:{}", "https://scoped.test:{}",
    "https://nothing.test:{}", "https://unknown.test:{}", "https://metadata:{}",
    "https://metadata.google.internal:{}", "https://intranet:{}", "https://public.test.:{}",
    "https://public..test:{}", "https://.public.test:{}", "https://public_x.test:{}",
    # Networks inside.
    *(f"https://{address}:{{}}/v1" for address in INSIDE_4),
    *(f"https://[{address}]:{{}}/v1" for address in INSIDE_6),
]  # fmt: skip


def test_the_bypasses_are_many_and_each_is_one() -> None:
    assert len(BYPASSES) == len(set(BYPASSES)) >= 80


def let_through(address: str) -> bool:
    """As the guard does, but for the addresses that names outside stand for in these tests."""
    return address not in (PUBLIC, PUBLIC_6) and is_public(address)


@scenario
async def test_no_bypass_is_taken_and_none_makes_a_connection() -> None:
    async with counting() as counter, upstreams(Guard(resolve, let_through)) as made:
        for bypass in BYPASSES:
            url = bypass.format(counter.port)
            with pytest.raises(Conflict, match=r"^base_url: ") as refused:
                await check_base_url(url, GUARD)
            assert "\n" not in str(refused.value)
            # And as if it had been set all the same, by whoever can write to the store.
            try:
                origin = msgspec.structs.replace(origin_of(url), scheme="https")
            except ValueError:
                continue
            error = await refusal(made.pool(origin))
            assert error is not None, url
            assert error.kind == "connect"
            assert not re.search(r"127\.|10\.0|192\.168|169\.254|::", error.message)
        assert counter.accepts == 0


@scenario
async def test_the_same_spellings_without_the_guard_reach_this_machine() -> None:
    """Else the count of the test above would say nothing."""
    reach = ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "0.0.0.0", "0"]
    async with counting() as counter, upstreams(GUARD) as made:
        for number, host in enumerate(reach, 1):
            origin = origin_of(f"http://{host}:{counter.port}", guarded=False)
            connection = await made.pool(origin).connect()
            connection.abort()
            assert number - 1 <= counter.accepts <= number
        for host in reach:
            assert await refusal(made.pool(origin_of(f"http://{host}:{counter.port}"))) is not None


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://public.test", "https://public.test"),
        ("https://public.test/", "https://public.test"),
        ("HTTPS://Public.Test:443/v1/", "https://public.test/v1"),
        ("https://public.test:8443/openai/v1", "https://public.test:8443/openai/v1"),
        ("https://8.8.8.8/v1", "https://8.8.8.8/v1"),
        ("https://[2606:4700:4700:0::1111]/v1", "https://[2606:4700:4700::1111]/v1"),
        ("https://public6.test/V1/Models", "https://public6.test/V1/Models"),
        ("https://public.test/v1beta/models:x", "https://public.test/v1beta/models:x"),
    ],
)
@scenario
async def test_a_public_url_is_kept_in_its_one_spelling(url: str, kept: str) -> None:
    assert await check_base_url(url, GUARD) == kept
    assert await check_base_url(kept, GUARD) == kept
    host = kept.removeprefix("https://").partition("/")[0].rpartition("]")[0].strip("[")
    assert parse_base_url(kept)[1] == (host or kept.split("/")[2].partition(":")[0])


@pytest.mark.parametrize(
    "url",
    ["https://public.test:65536", "https://public.test/" + "a" * 1024, "https://public.test//"],
)
@scenario
async def test_what_is_too_large_or_odd_is_refused(url: str) -> None:
    with pytest.raises(Conflict, match=r"^base_url: "):
        await check_base_url(url, GUARD)


# --- connecting -------------------------------------------------------------------------------


@scenario
async def test_a_name_that_is_public_first_and_private_then_is_not_connected_to() -> None:
    async with counting() as counter:
        for answers in (
            ([PUBLIC], ["127.0.0.1"]),
            ([PUBLIC], ["::1"]),
            ([PUBLIC], [PUBLIC, "0.0.0.0"]),
        ):
            rebinding = Sequenced(*answers)
            guard = Guard(rebinding)
            url = await check_base_url(f"https://rebind.test:{counter.port}", guard)
            async with upstreams(guard) as made:
                error = await refusal(made.pool(origin_of(url)))
            assert error is not None
            assert error.message == "connect refused: the host is not at a public address"
            assert rebinding.asked == ["rebind.test"] * 2
        assert counter.accepts == 0


@scenario
async def test_a_guarded_origin_that_is_not_https_is_not_connected_to() -> None:
    async with counting() as counter, upstreams(Guard(resolve, only("127.0.0.1"))) as made:
        error = await refusal(made.pool(origin_of(f"http://127.0.0.1:{counter.port}")))
        assert error is not None
        assert error.message == "connect refused: the base URL is not https"
        assert counter.accepts == 0


async def an_upstream(secure: Secure, answer: bytes) -> tuple[asyncio.Server, int, list[bytes]]:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=secure.context)
    return server, server.sockets[0].getsockname()[1], asked


@scenario
async def test_the_checked_address_is_connected_to_under_the_origins_own_name(
    tmp_path: Path,
) -> None:
    secure = Secure(tmp_path, "upstream.test")
    server, port, asked = await an_upstream(secure, b"HTTP/1.1 204 No Content\r\n\r\n")
    resolver = Sequenced(["127.0.0.1"], ["127.0.0.2"])
    async with server, upstreams(Guard(resolver, only("127.0.0.1"))) as made:
        origin = origin_of(f"https://upstream.test:{port}", ca_file=secure.ca_file)
        pool = made.pool(origin)
        connection = await pool.connect()
        for _ in range(2):  # the second on the connection that is there: nothing is resolved
            told = Told()
            connection.send(told, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % origin.netloc.encode())
            await told.done.wait()
            assert told.status == 204
            again = pool.take()
            assert again is connection
        assert secure.names == ["upstream.test"]
        assert asked[0] == b"GET / HTTP/1.1\r\nHost: upstream.test:%d\r\n\r\n" % port
        assert resolver.asked == ["upstream.test"]
        # A new connection is checked anew.
        assert await refusal(pool) is not None
        assert resolver.asked == ["upstream.test"] * 2


@scenario
async def test_a_certificate_for_the_address_is_not_enough(tmp_path: Path) -> None:
    secure = Secure(tmp_path, "127.0.0.1")
    server, port, _ = await an_upstream(secure, b"")
    async with server, upstreams(Guard(Sequenced(["127.0.0.1"]), only("127.0.0.1"))) as made:
        pool = made.pool(origin_of(f"https://upstream.test:{port}", ca_file=secure.ca_file))
        error = await refusal(pool)
        assert error is not None
        assert error.message.startswith("TLS: ")


@scenario
async def test_the_next_address_is_tried_where_one_does_not_answer(tmp_path: Path) -> None:
    secure = Secure(tmp_path, "upstream.test")
    server, port, _ = await an_upstream(secure, b"")
    permitted = only("127.0.0.1", "127.0.0.3")
    async with server:
        for addresses, refused in ((["127.0.0.3", "127.0.0.1"], False), (["127.0.0.3"], True)):
            async with upstreams(Guard(Sequenced(addresses), permitted)) as made:
                url = f"https://upstream.test:{port}"
                error = await refusal(made.pool(origin_of(url, ca_file=secure.ca_file)))
                assert (error is not None) == refused
                if error is not None:
                    assert error.message == "connect failed: Connection refused"
                assert made.pool(origin_of(url, ca_file=secure.ca_file)).connecting == 0


@scenario
async def test_a_redirect_is_handed_on_and_not_followed(tmp_path: Path) -> None:
    secure = Secure(tmp_path, "upstream.test")
    async with counting() as counter:
        moved = (
            f"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:{counter.port}/\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        server, port, _ = await an_upstream(secure, moved.encode())
        guard = Guard(Sequenced(["127.0.0.1"]), only("127.0.0.1"))
        async with server, upstreams(guard) as made:
            origin = origin_of(f"https://upstream.test:{port}", ca_file=secure.ca_file)
            connection = await made.pool(origin).connect()
            told = Told()
            connection.send(told, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            await told.done.wait()
            assert told.status == 302
        assert counter.accepts == 0


@scenario
async def test_a_name_that_does_not_resolve_is_told_without_its_resolver() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with upstreams(Guard(nowhere)) as made:
        error = await refusal(made.pool(origin_of("https://public.test")))
        assert error is not None
        assert error.message == "connect failed: Temporary failure in name resolution"
    async with upstreams(Guard(never)) as made:
        error = await refusal(made.pool(origin_of("https://public.test", connect_s=0.01)))
        assert error is not None
        assert error.message == "no connection within 0.01 s"
