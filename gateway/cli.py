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
from contextlib import contextmanager, suppress

from gateway.admin import grammar
from gateway.admin.grammar import DEFAULT_CONFIG
from gateway.errors import ConfigError, Conflict, StoreError

SHIPPED_CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), DEFAULT_CONFIG)
"""Exists in `gateway.pyz` only: a checkout has the one at its top level."""

INSTALLED_COMMAND = "/usr/local/bin/gateway"
INSTALLED_CONFIG = "/etc/gateway/config.toml"
DRAIN_SECONDS_DEFAULT = 30.0
INTERRUPTED = 130

Arguments = dict[str, object]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    _tolerate_narrow_terminals()
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    run: grammar.Run | None = args.run
    try:
        code = _call(args) if run is None else run(args)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway", description="An LLM API gateway: forwards, meters, and keeps receipts."
    )
    grammar.add_common(parser, config=None, as_json=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    special = grammar.special
    special(verbs, "serve", "run the gateway until SIGTERM", _serve)
    special(
        verbs, "check-config", "read the configuration and say what it amounts to", _check_config
    )
    special(verbs, "unit", "print a hardened systemd unit", _unit)
    grammar.add_users(verbs, _create_user)
    grammar.add_keys(verbs)
    grammar.add_money(verbs)
    grammar.add_providers(verbs, _add_key)
    grammar.add_models(verbs)
    grammar.add_receipts(verbs, _verify, _export)
    ledger = grammar.group(verbs, "ledger", "the books")
    special(ledger, "check", "prove that every balance is the sum of its entries", _check_books)
    grammar.leaf(verbs, "in-flight", "show the requests being served", "in_flight.list", reads=True)
    grammar.leaf(verbs, "reload", "let the server read its configuration again", "reload")
    return parser


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
    from gateway.admin import summary

    path = _config_path(args, starts=True)
    checked = summary.check(path, config.load(path))
    if args.json:
        _print_json(msgspec.json.encode(checked))
    else:
        _print_lines(summary.lines(checked))
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


def _call(args: argparse.Namespace) -> int:
    """A verb that is one call: its arguments are the named options that were given."""
    with _calls(args, writes=not args.reads) as call:
        body = call(args.verb, grammar.arguments(args))
    _print_answer(args, args.verb, body)
    return 0


def _create_user(args: argparse.Namespace) -> int:
    """An admin gets a link as well: the first one can be let in by nobody else."""
    link = None
    with _calls(args, writes=True) as call:
        body = call("users.create", grammar.arguments(args))
        if args.admin:
            # Without pages there is nothing to sign in to, and the user is made all the same.
            with suppress(Conflict):
                link = call("users.link", {"name": args.name})
    if args.json and link is not None:
        import msgspec

        made = msgspec.json.decode(body, type=dict[str, object])
        body = msgspec.json.encode({**made, "sign_in_link": msgspec.Raw(link)})
    _print_answer(args, "users.create", body)
    if link is not None and not args.json:
        _print_answer(args, "users.link", link)
    return 0


def _add_key(args: argparse.Namespace) -> int:
    key = args.key
    if key == "-":
        # Typed as a word it would stand in the shell's history and in the list of processes.
        if sys.stdin.isatty():
            import getpass

            key = getpass.getpass(f"Key for {args.provider} (not shown): ")
        else:
            key = sys.stdin.readline()
    with _calls(args, writes=True) as call:
        body = call("providers.add_key", {"provider": args.provider, "key": key.strip()})
    _print_answer(args, "providers.add_key", body)
    return 0


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
    from gateway.admin.views import VerifyView

    body = client.verify(config.load(_config_path(args)))
    _print_answer(args, "receipts.verify", body)
    return 0 if msgspec.json.decode(body, type=VerifyView).ok else 1


def _check_books(args: argparse.Namespace) -> int:
    import msgspec

    from gateway import config
    from gateway.admin import client
    from gateway.admin.views import BooksView

    body = client.check_books(config.load(_config_path(args)))
    _print_answer(args, "ledger.check", body)
    return 0 if msgspec.json.decode(body, type=BooksView).ok else 1


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
