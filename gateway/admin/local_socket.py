"""The running server's control socket: `POST /verbs/{name}` on a Unix socket of mode 0600.

Who may open the socket may do everything the verbs do: the file's mode is the authentication, and
there is no other. Started by `app.py`; the other end is `client.py`. A refusal answers
`{"error":{"code","message"}}` with the status of `_STATUS`.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.verbs import VERBS, BadArguments, Context, UnknownVerb
from gateway.errors import Conflict, GatewayError, KeyReused, Missing, StoreError

BODY_BYTES_MAX = 1 << 20
ANSWER_SECONDS = 1.0
"""How long whoever holds an old socket has to accept before it is taken for dead."""

_PATH_BYTES_MAX = 107
"""sun_path has 108 bytes on Linux, one of them the closing NUL (unix(7))."""

_BACKLOG = 128

_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (BadArguments, 400, "invalid_request"),
    (UnknownVerb, 404, "not_found"),
    (Missing, 404, "not_found"),
    (KeyReused, 422, "idempotency_key_reused"),
    (Conflict, 409, "conflict"),
    (StoreError, 503, "ledger_unavailable"),
)


class _Fault(msgspec.Struct):
    code: str
    message: str


class _Refusal(msgspec.Struct):
    error: _Fault


async def start(context: Context, path: str) -> web.AppRunner:
    """Serve the verbs at `path`. Await `cleanup()` of the runner to stop and remove the socket.

    Raises `StoreError` if another process answers there, or the path cannot be used.
    """
    listener = await asyncio.to_thread(_bind, path)
    inode = os.stat(path).st_ino

    async def verb(request: web.Request) -> web.Response:
        call = VERBS.get(request.match_info["name"])
        if call is None:
            raise UnknownVerb(f"no verb is named {request.match_info['name']}")
        answer = await call(context, await request.read(), "socket")
        return web.Response(body=answer, content_type="application/json")

    app = web.Application(middlewares=[_refuse], client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/verbs/{name}", verb)
    app.on_cleanup.append(lambda _: asyncio.to_thread(_remove, path, inode))
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
    except BaseException:
        listener.close()
        await runner.cleanup()
        raise
    return runner


@web.middleware
async def _refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return _answer(exc.status, "invalid_request", exc.reason)
    except GatewayError as exc:
        return _answer(exc.status, exc.code, exc.message)
    except Exception as exc:  # noqa: BLE001 - the last line of defence: told below, never dropped
        for kind, status, code in _STATUS:
            if isinstance(exc, kind):
                return _answer(status, code, str(exc))
        # The verb's name only: its arguments and answer may hold a secret.
        _log.exception("verb failed: %s", request.path)
        return _answer(500, "internal_error", "the verb failed; see the server's log")


def _answer(status: int, code: str, message: str) -> web.Response:
    body = msgspec.json.encode(_Refusal(_Fault(code, message)))
    return web.Response(status=status, body=body, content_type="application/json")


def _bind(path: str) -> socket.socket:
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise StoreError(
            f"admin.socket: {path} is longer than the {_PATH_BYTES_MAX} bytes of a Unix socket"
        )
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode is decided at bind, so the socket is never open to others, not even briefly.
        # Other threads make files with this umask for a moment: it only makes those stricter.
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise StoreError(f"admin.socket: {path} was taken by another process") from None
        raise StoreError(f"admin.socket: {path} cannot be made: {exc.strerror}") from None
    return listener


def _clear_stale(path: str) -> None:
    """Remove a socket that a dead process left behind; refuse one that somebody listens on."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StoreError(f"admin.socket: {path} cannot be read: {exc.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise StoreError(f"admin.socket: {path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as exc:
            raise StoreError(f"admin.socket: {path} is in use: {exc.strerror or exc}") from None
    raise StoreError(f"admin.socket: another process answers on {path}")


def _remove(path: str, inode: int) -> None:
    # Only our own: a successor may have bound the path anew.
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
