"""The control socket: private, strict, and at once in effect; it takes over only from the dead."""

import asyncio
import contextlib
import io
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import pytest
import uvloop
from aiohttp import web

from gateway.accounts.accounts import Accounts
from gateway.accounts.sign_in import SignIn
from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.accounts.vault import Vault
from gateway.admin import local_socket
from gateway.admin.verbs import Context
from gateway.errors import StoreError
from gateway.ledger.writer import Ledger

SECRET = bytes(range(32))


class Answer(NamedTuple):
    status: int
    body: dict[str, object]


class Caller:
    """Speaks to a control socket as any HTTP client would."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, verb: str, **arguments: object) -> Answer:
        return await self.raw(verb, msgspec.json.encode(arguments))

    async def raw(self, verb: str, body: bytes | io.BytesIO, method: str = "POST") -> Answer:
        async with self._session.request(method, f"http://x/verbs/{verb}", data=body) as answer:
            return Answer(answer.status, msgspec.json.decode(await answer.read()))


def exists(path: str) -> bool:
    return os.path.lexists(path)


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Context]:
    def fail(exc: BaseException) -> None:
        raise AssertionError(exc)

    ledger = await Ledger.open(
        str(directory / "gateway.db"), secret=SECRET, durability="full", on_fatal=fail
    )
    accounts = await Accounts.load(ledger, SECRET, "gw-")
    upstreams = await UpstreamSettings.load(ledger, Vault.load(str(directory / "gateway.db")))
    sign_in = await SignIn.load(ledger, accounts, SECRET)
    yield Context(accounts, ledger, SECRET, upstreams, sign_in)
    await ledger.close()


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    async with opened(tmp_path) as context:
        yield context


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


@pytest.fixture
async def running(context: Context, path: str) -> AsyncIterator[web.AppRunner]:
    runner = await local_socket.start(context, path)
    yield runner
    await runner.cleanup()


@pytest.fixture
async def call(running: web.AppRunner, path: str) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        yield Caller(session)


async def test_a_key_made_over_the_socket_works_at_once_and_revoked_stops_at_once(
    call: Caller, context: Context
) -> None:
    assert (await call("users.create", name="ann")).status == 200
    made = await call("keys.create", user="ann", rpm=5, models=["a"])
    text = str(made.body["key"]).encode()
    found = context.accounts.identify(text, context.clock_ms())
    assert found is not None
    assert (found.id, found.rpm, found.models) == (made.body["id"], 5, ["a"])
    revoked = await call("keys.revoke", id=made.body["id"])
    assert revoked.body["status"] == "revoked"
    assert context.accounts.identify(text, context.clock_ms()) is None


async def test_only_the_answer_that_makes_a_key_holds_its_text(call: Caller) -> None:
    await call("users.create", name="ann")
    made = await call("keys.create", user="ann")
    text = str(made.body["key"])
    listed = await call("keys.list")
    revoked = await call("keys.revoke", id=made.body["id"])
    for answer in (listed, revoked):
        shown = msgspec.json.encode(answer.body).decode()
        assert text[7:] not in shown
        assert text[:7] in shown
        assert '"hash"' not in shown
        assert '"key"' not in shown


async def test_two_at_once_for_one_name_give_one_user_and_one_conflict(call: Caller) -> None:
    answers = await asyncio.gather(*(call("users.create", name="ann") for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    listed = await call("users.list")
    assert [user["name"] for user in listed.body["data"]] == ["ann"]  # type: ignore[attr-defined]


async def test_a_verb_finishes_even_if_its_caller_hangs_up(
    running: web.AppRunner, path: str, call: Caller, context: Context
) -> None:
    await call("users.create", name="ann")
    made = await call("keys.create", user="ann")
    body = msgspec.json.encode({"id": made.body["id"]})
    _, writer = await asyncio.open_unix_connection(path)
    head = f"POST /verbs/keys.revoke HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    text = str(made.body["key"]).encode()
    async with asyncio.timeout(5):
        while context.accounts.identify(text, context.clock_ms()) is not None:
            await call("users.list")


@pytest.mark.parametrize(
    ("verb", "body", "status", "code"),
    [
        ("users.create", b'{"name":"x","colour":"red"}', 400, "invalid_request"),
        ("users.create", b'{"name":7}', 400, "invalid_request"),
        ("users.create", b"{}", 400, "invalid_request"),
        ("users.create", b"", 400, "invalid_request"),
        ("users.create", b"[]", 400, "invalid_request"),
        ("users.create", b'{"name":"\xff"}', 400, "invalid_request"),
        ("users.create", b"[" * 100_000, 400, "invalid_request"),
        ("users.list", b'{"x":1}', 400, "invalid_request"),
        ("receipts.list", b'{"limit":0}', 400, "invalid_request"),
        ("receipts.list", b'{"limit":1001}', 400, "invalid_request"),
        ("receipts.list", b'{"status":"odd"}', 400, "invalid_request"),
        ("receipts.list", b'{"user":"a","owner":"b"}', 400, "invalid_request"),
        ("receipts.list", b'{"user":"nobody"}', 404, "not_found"),
        ("receipts.list", b'{"after":"nothing"}', 400, "invalid_request"),
        ("receipts.show", b'{"id":"nothing"}', 404, "not_found"),
        ("keys.revoke", b'{"id":"nothing"}', 404, "not_found"),
        ("keys.create", b'{"user":"nobody"}', 404, "not_found"),
        ("reload", b"{}", 409, "conflict"),
        ("keys.explode", b"{}", 404, "not_found"),
        ("__class__", b"{}", 404, "not_found"),
    ],
)
async def test_what_a_verb_does_not_take_is_refused_with_a_reason(
    call: Caller, verb: str, body: bytes, status: int, code: str
) -> None:
    answer = await call.raw(verb, body)
    error = msgspec.convert(answer.body["error"], dict[str, str])
    assert (answer.status, error["code"]) == (status, code)
    assert error["message"]
    assert "\n" not in error["message"]


async def test_a_body_beyond_the_bound_is_refused(call: Caller) -> None:
    answer = await call.raw("users.create", io.BytesIO(b" " * (local_socket.BODY_BYTES_MAX + 1)))
    assert answer.status == 413


async def test_other_methods_and_paths_are_refused_as_json(call: Caller) -> None:
    assert (await call.raw("users.list", b"", method="GET")).status == 405
    assert (await call.raw("a/b", b"{}")).status == 404


async def test_the_chain_is_verified_over_the_socket(call: Caller) -> None:
    answer = await call("receipts.verify")
    assert (answer.body["ok"], answer.body["checked"]) == (True, 0)


async def test_a_store_that_is_gone_is_a_503_and_changes_nothing(
    call: Caller, context: Context
) -> None:
    await context.ledger.close()
    answer = await call("users.create", name="ann")
    assert answer.status == 503
    assert context.accounts.list_users() == []


async def test_a_fault_of_ours_is_told_without_its_inside(
    call: Caller, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    # A wrong type where the table promises none: the clock breaks inside the verb.
    def broken() -> int:
        raise RuntimeError("gw-inside")

    object.__setattr__(context, "clock_ms", broken)
    await call("users.create", name="ann")
    with caplog.at_level(logging.ERROR):
        answer = await call("keys.create", user="ann")
    assert answer.status == 500
    assert "gw-inside" not in msgspec.json.encode(answer.body).decode()
    assert "/verbs/keys.create" in caplog.text


async def test_the_socket_is_open_to_its_owner_alone_under_any_umask(
    context: Context, path: str
) -> None:
    before = os.umask(0)
    try:
        runner = await local_socket.start(context, path)
        try:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert os.umask(0) == 0  # put back as it was
        finally:
            await runner.cleanup()
    finally:
        os.umask(before)


async def test_stopping_removes_the_socket(context: Context, path: str) -> None:
    runner = await local_socket.start(context, path)
    await runner.cleanup()
    assert not exists(path)


async def test_stopping_leaves_a_successors_socket_alone(context: Context, path: str) -> None:
    runner = await local_socket.start(context, path)
    os.unlink(path)
    successor = await local_socket.start(context, path)
    await runner.cleanup()
    assert exists(path)
    await successor.cleanup()


async def test_a_socket_left_by_a_dead_process_is_replaced(context: Context, path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    runner = await local_socket.start(context, path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        assert (await Caller(session)("users.list")).status == 200
    await runner.cleanup()


async def test_a_socket_that_somebody_answers_on_is_left_alone(
    context: Context, running: web.AppRunner, call: Caller, path: str
) -> None:
    with pytest.raises(StoreError, match="another process answers"):
        await local_socket.start(context, path)
    assert (await call("users.list")).status == 200


async def test_a_file_in_the_way_is_never_removed(context: Context, tmp_path: Path) -> None:
    before = tmp_path / "gateway.db"
    content = before.read_bytes()
    with pytest.raises(StoreError, match="is not a socket"):
        await local_socket.start(context, str(before))
    assert before.read_bytes() == content


async def test_paths_that_cannot_be_are_one_clear_line(context: Context, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="longer than the 107 bytes"):
        await local_socket.start(context, str(tmp_path / ("x" * 120)))
    with pytest.raises(StoreError, match="cannot be made: No such file or directory"):
        await local_socket.start(context, str(tmp_path / "absent" / "s"))


def test_the_loop_that_serves_in_production_takes_the_socket_over_too(
    tmp_path: Path, path: str
) -> None:
    # uvloop has its own idea of sockets that are bound already.
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            context = await stack.enter_async_context(opened(tmp_path))
            for _ in range(2):
                runner = await local_socket.start(context, path)
                async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
                    call = Caller(session)
                    answers = await asyncio.gather(*(call("users.list") for _ in range(20)))
                    assert {answer.status for answer in answers} == {200}
                    with pytest.raises(StoreError, match="another process answers"):
                        await local_socket.start(context, path)
                await runner.cleanup()
                assert not exists(path)

    uvloop.run(scenario())
