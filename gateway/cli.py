"""The `gateway` command: words in, an exit code out.

Exit codes: 0 done, 1 refused (one line on standard error says why), 2 wrong usage. `--config` and
`--json` stand before or after the verb. A verb that works on the store goes through a running
server's socket and takes effect there at once; where none runs it opens the store itself
(`admin/client.py`). Everything that is slow to import is imported by the verb that needs it, so
that `--help` and `unit` answer in an instant.
"""

import argparse
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from gateway.errors import ConfigError, Conflict, StoreError

DEFAULT_CONFIG = "config.toml"
SHIPPED_CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), DEFAULT_CONFIG)
"""Exists in `gateway.pyz` only: a checkout has the one at its top level."""

INSTALLED_COMMAND = "/usr/local/bin/gateway"
INSTALLED_CONFIG = "/etc/gateway/config.toml"
DRAIN_SECONDS_DEFAULT = 30.0
INTERRUPTED = 130

_SPAN_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Run = Callable[[argparse.Namespace], int]
Arguments = dict[str, object]
# argparse has no public name for what `add_subparsers` gives.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    _tolerate_narrow_terminals()
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    run: Run = args.run
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except (ConfigError, StoreError, Conflict) as exc:
        print("gateway:", " ".join(str(exc).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader had enough (`| head`). Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _tolerate_narrow_terminals() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# The grammar


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway", description="An LLM API gateway: forwards, meters, and keeps receipts."
    )
    _add_common(parser, config=None, as_json=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _leaf(verbs, "serve", "run the gateway until SIGTERM", _serve)
    _leaf(verbs, "check-config", "read the configuration and say what it amounts to", _check_config)
    _leaf(verbs, "unit", "print a hardened systemd unit", _unit)
    _add_users(verbs)
    _add_keys(verbs)
    _add_receipts(verbs)
    return parser


def _add_common(
    parser: argparse.ArgumentParser, *, config: str | None, as_json: bool | str
) -> None:
    # On a leaf the default is SUPPRESS, so that it leaves alone what was said before the verb.
    parser.add_argument(
        "--config", metavar="FILE", default=config, help=f"default {DEFAULT_CONFIG}"
    )
    parser.add_argument(
        "--json", action="store_true", default=as_json, help="print one JSON document"
    )


def _leaf(verbs: Verbs, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=f"{summary}.")
    _add_common(parser, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def _group(verbs: Verbs, name: str, summary: str) -> Verbs:
    parser = verbs.add_parser(name, help=summary, description=f"{summary}.")
    _add_common(parser, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True)


def _add_users(verbs: Verbs) -> None:
    users = _group(verbs, "users", "who may have keys")
    create = _leaf(users, "create", "add a user", _verb("users.create", "name", "email", "admin"))
    create.add_argument("name", metavar="NAME")
    create.add_argument("--email", metavar="E")
    create.add_argument("--admin", action="store_true", help="may administer the gateway")
    _leaf(users, "list", "show all users", _verb("users.list"))
    suspend = _leaf(users, "suspend", "refuse all keys of a user", _verb("users.suspend", "name"))
    suspend.add_argument("name", metavar="NAME")


def _add_keys(verbs: Verbs) -> None:
    keys = _group(verbs, "keys", "gateway keys")
    create = _leaf(
        keys,
        "create",
        "issue a key; it is shown this once",
        _verb("keys.create", "user", "name", "rpm", "tpm", "concurrent", "models", "expires_ms"),
    )
    create.add_argument("--user", metavar="NAME", required=True)
    create.add_argument("--name", metavar="TEXT", default="", help="what the key is for")
    create.add_argument("--rpm", metavar="N", type=int, help="requests per minute")
    create.add_argument("--tpm", metavar="N", type=int, help="tokens per minute")
    create.add_argument("--concurrent", metavar="N", type=int, help="requests at once")
    create.add_argument("--models", metavar="A,B", type=_names, help="only these models")
    create.add_argument(
        "--expires",
        metavar="D",
        type=_future_ms,
        dest="expires_ms",
        help="2027-01-31, 2027-01-31T12:00 (UTC unless an offset is given), or 30d, 12h, 90m, 2w",
    )
    listing = _leaf(keys, "list", "show keys, without their text", _verb("keys.list", "user"))
    listing.add_argument("--user", metavar="NAME")
    revoke = _leaf(keys, "revoke", "refuse a key from now on", _verb("keys.revoke", "id"))
    revoke.add_argument("id", metavar="ID")


def _add_receipts(verbs: Verbs) -> None:
    receipts = _group(verbs, "receipts", "what every request left behind")
    show = _leaf(receipts, "show", "show one receipt", _verb("receipts.show", "id"))
    show.add_argument("id", metavar="ID")
    listing = _leaf(
        receipts,
        "list",
        "show receipts, newest first",
        _verb("receipts.list", "user", "owner", "limit", "after", "status", "model"),
    )
    whose = listing.add_mutually_exclusive_group()
    whose.add_argument("--user", metavar="NAME", help="of one user")
    whose.add_argument("--owner", metavar="OWNER", help="of one owner: user:1, or byok:<hash>")
    listing.add_argument("--limit", metavar="N", type=int, default=20)
    listing.add_argument("--after", metavar="ID", help="go on below this receipt")
    listing.add_argument("--status", choices=["succeeded", "failed", "cancelled"])
    listing.add_argument("--model", metavar="NAME")
    _leaf(receipts, "verify", "walk the hash chain over all receipts", _verify)
    export = _leaf(receipts, "export", "write out receipts, oldest first", _export)
    export.add_argument(
        "--since", metavar="D", type=_past_ms, dest="since_ms", help="a date, or 7d, 12h, 90m, 2w"
    )
    export.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError("expected names with commas between them")
    return names


def _future_ms(text: str) -> int:
    return _instant_ms(text, +1)


def _past_ms(text: str) -> int:
    return _instant_ms(text, -1)


def _instant_ms(text: str, direction: int) -> int:
    """A date and time, or a span from now in a direction, in milliseconds since the epoch."""
    try:
        if text[-1:] in _SPAN_SECONDS and text[:-1].isdecimal():
            span = timedelta(seconds=int(text[:-1]) * _SPAN_SECONDS[text[-1]])
            at = datetime.now(UTC) + direction * span
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a date (2027-01-31, 2027-01-31T12:00) nor a span (30d, 12h)"
        ) from None


# The verbs


def _config_path(args: argparse.Namespace, *, starts: bool = False) -> str:
    """The file given, else the one here, else the one shipped inside the package (`make dist`).

    `starts`: a gateway may begin its life here. Other verbs follow the shipped file only to where
    one already has, so that a verb typed in a wrong directory makes no second store there.
    """
    given: str | None = args.config
    if given or os.path.exists(DEFAULT_CONFIG) or not os.path.exists(SHIPPED_CONFIG):
        return given or DEFAULT_CONFIG
    if not starts:
        from gateway import config

        if not os.path.exists(config.load(SHIPPED_CONFIG).store.path):
            raise ConfigError(f"{DEFAULT_CONFIG}: no such file, and no gateway has run here")
    print(f"gateway: no {DEFAULT_CONFIG} here, using {SHIPPED_CONFIG}", file=sys.stderr)
    return SHIPPED_CONFIG


def _serve(args: argparse.Namespace) -> int:
    from gateway.app import serve

    return serve(_config_path(args, starts=True))


def _check_config(args: argparse.Namespace) -> int:
    import msgspec

    from gateway import config
    from gateway.admin import show

    path = _config_path(args, starts=True)
    checked = show.check(path, config.load(path))
    if args.json:
        _print_json(msgspec.json.encode(checked))
    else:
        _print_lines(show.config(checked))
    return 0


def _unit(args: argparse.Namespace) -> int:
    from gateway import unit

    drain_s = DRAIN_SECONDS_DEFAULT
    if args.config is not None or os.path.exists(DEFAULT_CONFIG):
        from gateway import config

        drain_s = config.load(_config_path(args)).server.drain_seconds
    path = os.path.abspath(args.config) if args.config else INSTALLED_CONFIG
    command = _own_path()
    for hidden in ("/home/", "/root/", "/run/user/"):
        for needed in (command, path):
            if needed.startswith(hidden):
                print(
                    f"gateway: the unit cannot see {needed} (ProtectHome=yes): move it",
                    file=sys.stderr,
                )
    text = unit.render(command=command, config=path, drain_s=drain_s)
    if args.json:
        import msgspec

        _print_json(msgspec.json.encode({"object": "unit", "text": text}))
    else:
        sys.stdout.write(text)
    return 0


def _own_path() -> str:
    """Where this command was started from, if that can be started again by a unit."""
    found = shutil.which(sys.argv[0])
    if found is None or os.path.basename(found) == "__main__.py":
        return INSTALLED_COMMAND
    return os.path.abspath(found)


def _verb(name: str, *fields: str) -> Run:
    """A verb that is one call: its arguments are the named options that were given."""

    def run(args: argparse.Namespace) -> int:
        given = {field: getattr(args, field) for field in fields}
        with _calls(args, writes=not name.endswith((".list", ".show"))) as call:
            body = call(name, {key: value for key, value in given.items() if value is not None})
        _print_answer(args, name, body)
        return 0

    return run


@contextmanager
def _calls(
    args: argparse.Namespace, *, writes: bool
) -> Iterator[Callable[[str, Arguments], bytes]]:
    import msgspec

    from gateway import config
    from gateway.admin import client

    with client.connect(config.load(_config_path(args)), writes=writes) as call:
        yield lambda name, arguments: call(name, msgspec.json.encode(arguments))


def _verify(args: argparse.Namespace) -> int:
    import msgspec

    from gateway import config
    from gateway.admin import client
    from gateway.admin.verbs import VerifyView

    body = client.verify(config.load(_config_path(args)))
    _print_answer(args, "receipts.verify", body)
    return 0 if msgspec.json.decode(body, type=VerifyView).ok else 1


def _export(args: argparse.Namespace) -> int:
    if args.json and args.format == "csv":
        print("gateway: --json and --format csv exclude each other", file=sys.stderr)
        return 2
    from gateway import config
    from gateway.admin import client

    lines = client.export(config.load(_config_path(args)), args.since_ms or 0, args.format)
    if args.json:
        lines = _as_array(lines)
    # A read that lasts keeps the store's log from being emptied, and a pipe may stop reading
    # for as long as it likes (`| less`): so all is read first, and only a file is written to
    # as it comes.
    out = sys.stdout.buffer
    if stat.S_ISREG(os.fstat(out.fileno()).st_mode):
        out.writelines(lines)
    else:
        with tempfile.TemporaryFile() as spool:
            spool.writelines(lines)
            spool.seek(0)
            shutil.copyfileobj(spool, out)
    out.flush()
    return 0


def _as_array(lines: Iterable[bytes]) -> Iterator[bytes]:
    yield b"["
    for index, line in enumerate(lines):
        yield (b",\n" if index else b"\n") + line.rstrip(b"\n")
    yield b"\n]\n"


def _print_answer(args: argparse.Namespace, name: str, body: bytes) -> None:
    if args.json:
        _print_json(body)
    else:
        from gateway.admin import show

        _print_lines(show.lines(name, body))


def _print_json(body: bytes) -> None:
    import msgspec

    print(msgspec.json.format(body, indent=2).decode())


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)
