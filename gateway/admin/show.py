"""What the command line prints for people: the results of verbs as columns.

`lines` takes a verb's name and its JSON result. Called by `cli.py` only; with `--json` it prints
the result itself instead. A receipt holds text that clients sent, so nothing is printed that a
terminal could take for a command.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from gateway.admin.verbs import KeyList, KeyView, UserList, UserView, VerifyView
from gateway.config import BUILTIN_DEMO, Config, secret

_GAP = "  "

V = TypeVar("V")


class ProviderView(msgspec.Struct, frozen=True):
    """A configured provider; `keys_set` of its `keys` have a value in this environment."""

    name: str
    format: str
    base_url: str
    keys: int
    keys_set: int
    active: bool


class ConfigView(msgspec.Struct, frozen=True):
    """What a configuration amounts to."""

    path: str
    listen: str
    store: str
    providers: list[ProviderView]
    object: str = "config"


class _Request(msgspec.Struct):
    model: str = ""


class _Route(msgspec.Struct):
    provider: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Cost(msgspec.Struct):
    amount: str | None = None


class _Timing(msgspec.Struct):
    total_ms: float | None = None


class _ReceiptRow(msgspec.Struct):
    id: str
    created_at: str
    status: str
    request: _Request
    route: _Route | None = None
    usage: _Usage | None = None
    cost: _Cost | None = None
    timing: _Timing | None = None
    http_status: int | None = None


class _ReceiptRows(msgspec.Struct):
    data: list[_ReceiptRow]
    has_more: bool = False


def check(path: str, config: Config) -> ConfigView:
    """Sum a configuration up."""
    server = config.server
    scheme = "https" if server.tls_cert else "http"
    providers = []
    for name, provider in config.providers.items():
        keys_set = sum(secret(key) is not None for key in provider.keys)
        providers.append(
            ProviderView(
                name=name,
                format=provider.format,
                base_url=provider.base_url,
                keys=len(provider.keys),
                keys_set=keys_set,
                active=keys_set > 0 or not provider.keys,
            )
        )
    return ConfigView(
        path=path,
        listen=server.unix_socket or f"{scheme}://{server.host}:{server.port}",
        store=config.store.path,
        providers=providers,
    )


def config(view: ConfigView) -> list[str]:
    """A configuration, for people."""
    found = [f"{view.path}: fine", f"listens on  {view.listen}", f"store       {view.store}", ""]
    rows = [
        [provider.name, provider.format, provider.base_url, _keys_cell(provider)]
        for provider in view.providers
    ]
    found += table(["PROVIDER", "FORMAT", "BASE URL", "KEYS"], rows)
    return [_plain(line) for line in found]


def _keys_cell(provider: ProviderView) -> str:
    if provider.base_url == BUILTIN_DEMO:
        return "built in"
    if not provider.keys:
        return "none needed"
    state = "" if provider.active else " (inactive)"
    return f"{provider.keys_set} of {provider.keys} set{state}"


def lines(verb: str, body: bytes) -> list[str]:
    """The result of a verb, for people."""
    return [_plain(line) for line in _SHOWN[verb](body)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Text in aligned columns; a cell with nothing in it shows a dash."""
    grid = [list(head), *([_plain(cell) or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in grid
    ]


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _shown(kind: type[V], show: Callable[[V], list[str]]) -> Callable[[bytes], list[str]]:
    decoder = msgspec.json.Decoder(kind)
    return lambda body: show(decoder.decode(body))


def _user_created(user: UserView) -> list[str]:
    return [f"user {user.name} created (id {user.id})"]


def _user_suspended(user: UserView) -> list[str]:
    return [f"user {user.name} is suspended: none of its keys works"]


def _users(users: UserList) -> list[str]:
    head = ["ID", "NAME", "EMAIL", "ADMIN", "STATUS", "CREATED"]
    return table(
        head,
        (
            [
                str(user.id),
                user.name,
                _text(user.email),
                "yes" if user.admin else "",
                user.status,
                _minute(user.created_at),
            ]
            for user in users.data
        ),
    )


def _key_created(key: KeyView) -> list[str]:
    return [
        f"id   {key.id}",
        f"key  {key.key}",
        "This is the only time the key is shown.",
    ]


def _keys(keys: KeyList) -> list[str]:
    head = ["ID", "USER", "NAME", "KEY", "STATUS", "CREATED", "EXPIRES", "RPM", "TPM", "MODELS"]
    return table(
        head,
        (
            [
                key.id,
                key.user,
                key.name,
                f"{key.hint}…",
                key.status,
                _minute(key.created_at),
                _minute(key.expires_at),
                _text(key.rpm),
                _text(key.tpm),
                ",".join(key.models or ()),
            ]
            for key in keys.data
        ),
    )


def _key_revoked(key: KeyView) -> list[str]:
    return [f"key {key.id} ({key.hint}…) of {key.user} is revoked"]


def _minute(at: str | None) -> str:
    return "" if at is None else f"{at[:10]} {at[11:16]}"


def _receipts(receipts: _ReceiptRows) -> list[str]:
    head = ["ID", "CREATED", "STATUS", "HTTP", "MODEL", "PROVIDER", "IN", "OUT", "USD", "MS"]
    found = table(head, (_receipt_cells(row) for row in receipts.data))
    if receipts.has_more:
        found.append(f"more: --after {receipts.data[-1].id}")
    return found


def _receipt_cells(row: _ReceiptRow) -> list[str]:
    usage, timing = row.usage or _Usage(), row.timing or _Timing()
    return [
        row.id,
        row.created_at[:19].replace("T", " "),
        row.status,
        _text(row.http_status),
        row.request.model,
        row.route.provider or "" if row.route else "",
        _text(usage.input_tokens),
        _text(usage.output_tokens),
        row.cost.amount or "" if row.cost else "",
        "" if timing.total_ms is None else f"{timing.total_ms:.0f}",
    ]


def _receipt(receipt: dict[str, object]) -> list[str]:
    rows = list(_flat("", receipt))
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}{_GAP}{_plain(value)}" for name, value in rows]


def _flat(name: str, value: object) -> Iterable[tuple[str, str]]:
    """A nested value as dotted names, in its own order."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(f"{name}[{index}]", item)
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    else:
        yield name, "-" if value in (None, "", {}, []) else str(value)


def _verified(result: VerifyView) -> list[str]:
    if result.ok:
        return [f"{result.checked} receipts verified: none changed, removed or added"]
    return [f"NOT VERIFIED: {result.message}; {result.checked} receipts before it are intact"]


_SHOWN: dict[str, Callable[[bytes], list[str]]] = {
    "users.create": _shown(UserView, _user_created),
    "users.list": _shown(UserList, _users),
    "users.suspend": _shown(UserView, _user_suspended),
    "keys.create": _shown(KeyView, _key_created),
    "keys.list": _shown(KeyList, _keys),
    "keys.revoke": _shown(KeyView, _key_revoked),
    "receipts.show": _shown(dict[str, object], _receipt),
    "receipts.list": _shown(_ReceiptRows, _receipts),
    "receipts.verify": _shown(VerifyView, _verified),
}
