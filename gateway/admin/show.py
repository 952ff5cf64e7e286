"""What the command line prints for people: the results of verbs as columns.

`lines` takes a verb's name and its JSON result. Called by `cli.py` only; with `--json` it prints
the result itself instead. A receipt holds text that clients sent, so nothing is printed that a
terminal could take for a command.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from gateway.accounts.amounts import Money
from gateway.admin.views import (
    BooksView,
    CapList,
    CapView,
    CodeList,
    CodeView,
    CorrectionView,
    CreditView,
    DeletedView,
    InFlightList,
    KeyList,
    KeyView,
    ModelList,
    ModelNameView,
    ModelView,
    ProviderKeyView,
    ProviderList,
    ProviderView,
    RedemptionView,
    ReloadView,
    RotationView,
    SessionsEndedView,
    SignInLinkView,
    UserList,
    UserView,
    VerifyView,
)

_GAP = "  "

V = TypeVar("V")


class _Request(msgspec.Struct):
    model: str = ""


class _Route(msgspec.Struct):
    provider: str | None = None


class _Tokens(msgspec.Struct):
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
    usage: _Tokens | None = None
    cost: _Cost | None = None
    timing: _Timing | None = None
    http_status: int | None = None


class _ReceiptRows(msgspec.Struct):
    data: list[_ReceiptRow]
    has_more: bool = False


def lines(verb: str, body: bytes) -> list[str]:
    """The result of a verb, for people."""
    return [plain(line) for line in _SHOWN[verb](body)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Text in aligned columns; a cell with nothing in it shows a dash."""
    grid = [list(head), *([plain(cell) or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in grid
    ]


def plain(text: str) -> str:
    """Text with nothing in it that a terminal could take for a command."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _shown(kind: type[V], show: Callable[[V], list[str]]) -> Callable[[bytes], list[str]]:
    decoder = msgspec.json.Decoder(kind)
    return lambda body: show(decoder.decode(body))


def _usd(money: Money | None) -> str:
    return "" if money is None else money.amount


# --- users, keys, money -----------------------------------------------------------------------


def _user_created(user: UserView) -> list[str]:
    return [f"user {user.name} created (id {user.id})"]


def _user_suspended(user: UserView) -> list[str]:
    return [f"user {user.name} is suspended: none of its keys works"]


def _user_resumed(user: UserView) -> list[str]:
    return [f"user {user.name} is {user.status}: its keys work again"]


def _link(link: SignInLinkView) -> list[str]:
    return [
        f"{link.user} sets a password here, once, until {_minute(link.expires_at)} UTC:",
        f"    {link.url or link.path}",
        "This is the only time the link is shown.",
    ]


def _sessions_ended(done: SessionsEndedView) -> list[str]:
    places = "1 place" if done.ended == 1 else f"{done.ended} places"
    return [f"user {done.user} was signed out in {places}"]


def _user(user: UserView) -> list[str]:
    return _users(UserList(data=[user]))


def _users(users: UserList) -> list[str]:
    head = [
        "ID", "NAME", "EMAIL", "ADMIN", "STATUS", "BALANCE", "HELD", "RATE", "RPM", "TPM",
        "CONCURRENT", "ALERT", "CREATED",
    ]  # fmt: skip
    return table(
        head,
        (
            [
                str(user.id),
                user.name,
                _text(user.email),
                "yes" if user.admin else "",
                user.status,
                user.balance.amount,
                user.held.amount,
                user.rate_multiplier,
                _text(user.rpm),
                _text(user.tpm),
                _text(user.concurrent),
                _usd(user.daily_alert),
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


def _key(key: KeyView) -> list[str]:
    return _keys(KeyList(data=[key]))


def _keys(keys: KeyList) -> list[str]:
    head = [
        "ID", "USER", "NAME", "KEY", "STATUS", "CREATED", "EXPIRES", "RPM", "TPM", "CONCURRENT",
        "SPENT", "CAP", "MODELS",
    ]  # fmt: skip
    return table(
        head,
        (
            [
                key.id,
                key.user,
                key.name,
                f"{key.hint}…",
                f"{key.status}, admin" if key.admin else key.status,
                _minute(key.created_at),
                _minute(key.expires_at),
                _text(key.rpm),
                _text(key.tpm),
                _text(key.concurrent),
                key.spent.amount,
                _usd(key.spend_cap),
                ",".join(key.models or ()),
            ]
            for key in keys.data
        ),
    )


def _key_revoked(key: KeyView) -> list[str]:
    return [f"key {key.id} ({key.hint}…) of {key.user} is revoked"]


def _credited(credit: CreditView) -> list[str]:
    return [f"{credit.amount} USD for {credit.user}: the balance is {credit.balance.amount} USD"]


def _corrected(made: CorrectionView) -> list[str]:
    return [f"{made.amount} USD for {made.user}: the balance is {made.balance.amount} USD"]


def _codes_created(codes: CodeList) -> list[str]:
    rows = [[code.id, _text(code.code), code.amount] for code in codes.data]
    return [*table(["ID", "CODE", "USD"], rows), "This is the only time the codes are shown."]


def _codes(codes: CodeList) -> list[str]:
    head = ["ID", "CODE", "USD", "STATUS", "CREATED", "EXPIRES", "REDEEMED", "BY"]
    return table(head, map(_code_cells, codes.data))


def _code_cells(code: CodeView) -> list[str]:
    return [
        code.id,
        f"{code.hint}…",
        code.amount,
        code.status,
        _minute(code.created_at),
        _minute(code.expires_at),
        _minute(code.redeemed_at),
        _text(code.redeemed_by),
    ]


def _redeemed(done: RedemptionView) -> list[str]:
    return [f"{done.amount} USD for {done.user}: the balance is {done.balance.amount} USD"]


def _cap(cap: CapView) -> list[str]:
    bound = "may cost anything" if cap.amount is None else f"costs at most {cap.amount} USD"
    return [f"a call of {cap.model} by {cap.user} {bound}"]


def _caps(caps: CapList) -> list[str]:
    return table(["MODEL", "USD"], ([cap.model, _text(cap.amount)] for cap in caps.data))


class _UsageLine(msgspec.Struct):
    # Restated: the statement's own module brings the ledger with it, which is slow to import.
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    amount: str
    list_amount: str = ""
    day: str | None = None
    user: str | None = None
    key: str | None = None
    provider: str | None = None
    model: str | None = None


class _Usage(msgspec.Struct):
    since: str
    until: str
    group_by: list[str]
    data: list[_UsageLine]
    total: _UsageLine


def _usage(usage: _Usage) -> list[str]:
    groups = usage.group_by
    head = [
        *(name.upper() for name in groups), "REQUESTS", "FAILED", "IN", "OUT", "USD", "LIST USD",
    ]  # fmt: skip
    rows = [[*(_text(getattr(one, name)) for name in groups), *_sums(one)] for one in usage.data]
    total = ["total", *[""] * (len(groups) - 1)] if groups else []
    found = table(head, [*rows, [*total, *_sums(usage.total)]])
    return [f"{usage.since} to {usage.until} (UTC)", *found]


def _sums(line: _UsageLine) -> list[str]:
    counts = (line.requests, line.failed, line.input_tokens, line.output_tokens)
    return [*map(str, counts), line.amount, line.list_amount]


# --- providers, models, the server ------------------------------------------------------------


def _provider(provider: ProviderView) -> list[str]:
    return _providers(ProviderList(data=[provider]))


def _providers(providers: ProviderList) -> list[str]:
    head = ["PROVIDER", "STATUS", "FORMAT", "BASE URL", "KEYS", "TODAY USD", "ALERT", "STOP"]
    found = table(head, map(_provider_cells, providers.data))
    keys = [key for provider in providers.data for key in provider.keys]
    if keys:
        found += ["", *_provider_keys(keys)]
    breakers = [
        [provider.name, one.model, one.state, str(one.failures), _second(one.probes_at)]
        for provider in providers.data
        for one in provider.breakers or ()
    ]
    if breakers:
        found += ["", *table(["PROVIDER", "MODEL", "BREAKER", "FAILURES", "PROBES"], breakers)]
    return found


def _provider_cells(provider: ProviderView) -> list[str]:
    status = "active" if provider.active else "inactive"
    if provider.paused_by is not None:
        status = f"paused by {provider.paused_by.replace('_', ' ')}"
    usable = sum(key.state == "usable" for key in provider.keys)
    today = provider.today
    return [
        provider.name,
        status,
        provider.format,
        provider.base_url,
        f"{usable} of {len(provider.keys)}" if provider.keys else "",
        "" if today is None else today.spent.amount,
        "" if today is None else _usd(today.alert),
        "" if today is None else _usd(today.stop),
    ]


def _provider_keys(keys: Sequence[ProviderKeyView]) -> list[str]:
    rows = [
        [
            key.provider,
            key.id or "configured",
            key.hint,
            key.state.replace("_", " "),
            _second(key.rests_until),
            ",".join(key.models),
        ]
        for key in keys
    ]
    return table(["PROVIDER", "KEY ID", "KEY", "STATE", "RESTS UNTIL", "NOT FOR"], rows)


def _provider_key(key: ProviderKeyView) -> list[str]:
    return _provider_keys([key])


def _deleted(gone: DeletedView) -> list[str]:
    return [f"{gone.id} is forgotten"]


def _rotated(done: RotationView) -> list[str]:
    found = [f"a new master key seals; {done.keys} provider keys were sealed anew"]
    return [*found, done.left_to_do] if done.left_to_do else found


def _models(models: ModelList) -> list[str]:
    head = [
        "MODEL", "ENABLED", "INPUT", "OUTPUT", "MULTIPLIER", "CONTEXT", "MAX OUTPUT", "PRICE FROM",
    ]  # fmt: skip
    return table(head, map(_model_cells, models.data))


def _model_cells(model: ModelView) -> list[str]:
    price = model.price or {}
    return [
        model.id,
        "yes" if model.enabled else "no",
        price.get("input_per_mtok", ""),
        price.get("output_per_mtok", ""),
        model.multiplier,
        _text(model.context_length),
        _text(model.max_output_tokens),
        _text(model.price_version),
    ]


def _model(model: ModelView) -> list[str]:
    return _models(ModelList(data=[model]))


def _model_name(name: ModelNameView) -> list[str]:
    kind = f"alias ({name.strategy})" if name.alias else "model"
    return [f"{name.name}: {kind}", *_models(ModelList(data=name.targets))]


def _in_flight(found: InFlightList) -> list[str]:
    head = ["ID", "STARTED", "OWNER", "ENDPOINT", "MODEL", "PROVIDER", "ATTEMPTS", "HELD"]
    rows = (
        [
            one.id,
            _second(one.created_at),
            one.user or one.owner,
            one.endpoint,
            one.model,
            _text(one.provider),
            str(one.attempts),
            one.held.amount,
        ]
        for one in found.data
    )
    return table(head, rows)


def _reloaded(report: ReloadView) -> list[str]:
    found = [f"changed: {', '.join(report.changed) or 'nothing'}"]
    if report.needs_restart:
        found.append(f"needs a restart: {', '.join(report.needs_restart)}")
    return found


# --- receipts, the books ----------------------------------------------------------------------


def _minute(at: str | None) -> str:
    return "" if at is None else f"{at[:10]} {at[11:16]}"


def _second(at: str | None) -> str:
    return "" if at is None else at[:19].replace("T", " ")


def _receipts(receipts: _ReceiptRows) -> list[str]:
    head = ["ID", "CREATED", "STATUS", "HTTP", "MODEL", "PROVIDER", "IN", "OUT", "USD", "MS"]
    found = table(head, (_receipt_cells(row) for row in receipts.data))
    if receipts.has_more:
        found.append(f"more: --after {receipts.data[-1].id}")
    return found


def _receipt_cells(row: _ReceiptRow) -> list[str]:
    usage, timing = row.usage or _Tokens(), row.timing or _Timing()
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
    return [f"{name.ljust(width)}{_GAP}{plain(value)}" for name, value in rows]


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


def _books(books: BooksView) -> list[str]:
    found = [
        f"{books.receipts} receipts, {books.transfers} transfers, {books.accounts} accounts",
        f"credited {books.credited.amount} USD, charged {books.charged.amount} USD, "
        f"{books.overspent.amount} USD beyond what was held",
    ]
    if books.ok:
        return [*found, "every balance is the sum of its entries; receipts and charges agree"]
    return [*found, *(f"WRONG: {line}" for line in books.wrong)]


_SHOWN: dict[str, Callable[[bytes], list[str]]] = {
    "users.create": _shown(UserView, _user_created),
    "users.list": _shown(UserList, _users),
    "users.show": _shown(UserView, _user),
    "users.set": _shown(UserView, _user),
    "users.suspend": _shown(UserView, _user_suspended),
    "users.resume": _shown(UserView, _user_resumed),
    "users.link": _shown(SignInLinkView, _link),
    "users.end_sessions": _shown(SessionsEndedView, _sessions_ended),
    "keys.create": _shown(KeyView, _key_created),
    "keys.list": _shown(KeyList, _keys),
    "keys.set": _shown(KeyView, _key),
    "keys.revoke": _shown(KeyView, _key_revoked),
    "credit": _shown(CreditView, _credited),
    "credit.correct": _shown(CorrectionView, _corrected),
    "codes.create": _shown(CodeList, _codes_created),
    "codes.list": _shown(CodeList, _codes),
    "codes.redeem": _shown(RedemptionView, _redeemed),
    "caps.set": _shown(CapView, _cap),
    "caps.list": _shown(CapList, _caps),
    "usage": _shown(_Usage, _usage),
    "ledger.check": _shown(BooksView, _books),
    "providers.list": _shown(ProviderList, _providers),
    "providers.add_key": _shown(ProviderKeyView, _provider_key),
    "providers.set_key": _shown(ProviderKeyView, _provider_key),
    "providers.remove_key": _shown(DeletedView, _deleted),
    "providers.pause": _shown(ProviderView, _provider),
    "providers.resume": _shown(ProviderView, _provider),
    "providers.set": _shown(ProviderView, _provider),
    "providers.remove": _shown(DeletedView, _deleted),
    "providers.rotate_master": _shown(RotationView, _rotated),
    "models.list": _shown(ModelList, _models),
    "models.show": _shown(ModelNameView, _model_name),
    "models.set": _shown(ModelView, _model),
    "models.unset": _shown(DeletedView, _deleted),
    "in_flight.list": _shown(InFlightList, _in_flight),
    "reload": _shown(ReloadView, _reloaded),
    "receipts.show": _shown(dict[str, object], _receipt),
    "receipts.list": _shown(_ReceiptRows, _receipts),
    "receipts.verify": _shown(VerifyView, _verified),
}
