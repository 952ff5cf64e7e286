"""The words of the command line that become verbs: `gateway users create NAME …`.

Only argparse here, so that `--help` answers in an instant. A leaf that is a verb keeps the verb's
name and the names of its arguments (`leaf`); `cli.py` calls it. An option that was not given is
None and is left out of the arguments; "none" is `NULL`, which takes a limit away.
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

DEFAULT_CONFIG = "config.toml"

# argparse has no public name for what `add_subparsers` gives.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
Run = Callable[[argparse.Namespace], int]

_SPAN_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Null:
    """What takes a setting away."""

    def __repr__(self) -> str:
        return "none"


NULL: Final = Null()


# --- the parts of a parser --------------------------------------------------------------------


def add_common(parser: argparse.ArgumentParser, *, config: str | None, as_json: bool | str) -> None:
    """`--config` and `--json`. On a leaf the default is SUPPRESS: what stood before is kept."""
    parser.add_argument(
        "--config", metavar="FILE", default=config, help=f"default {DEFAULT_CONFIG}"
    )
    parser.add_argument(
        "--json", action="store_true", default=as_json, help="print one JSON document"
    )


def special(verbs: Verbs, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
    """A leaf that `cli.py` runs itself."""
    parser = _parser(verbs, name, summary)
    parser.set_defaults(run=run)
    return parser


def leaf(
    verbs: Verbs, name: str, summary: str, verb: str, *fields: str, reads: bool = False
) -> argparse.ArgumentParser:
    """A leaf that is a verb with the options named `fields`; `reads` where it changes nothing."""
    parser = _parser(verbs, name, summary)
    parser.set_defaults(run=None, verb=verb, fields=fields, reads=reads)
    return parser


def group(verbs: Verbs, name: str, summary: str) -> Verbs:
    """A word that more words follow."""
    return _parser(verbs, name, summary).add_subparsers(
        title="verbs", metavar="VERB", required=True
    )


def _parser(verbs: Verbs, name: str, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=f"{summary}.")
    add_common(parser, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    return parser


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a leaf's verb gets of what was typed."""
    given = {field: getattr(args, field) for field in args.fields}
    return {
        name: None if value is NULL else value for name, value in given.items() if value is not None
    }


# --- the verbs --------------------------------------------------------------------------------

_LIMITS = ("rpm", "tpm", "concurrent")
_LIMITS_HELP = ("requests per minute", "tokens per minute", "requests at once")


def add_users(verbs: Verbs, create_user: Run) -> None:
    """`gateway users …`; `create_user` makes an admin's first link, too."""
    users = group(verbs, "users", "who may have keys")
    create = leaf(users, "create", "add a user", "users.create", "name", "email", "admin")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--email", metavar="E")
    create.add_argument(
        "--admin", action="store_true", help="may administer the gateway; gives a one-time link"
    )
    create.set_defaults(run=create_user)
    leaf(users, "list", "show all users", "users.list", reads=True)
    show = leaf(users, "show", "show one user", "users.show", "name", reads=True)
    show.add_argument("name", metavar="NAME")
    change = leaf(
        users, "set", "change a user; \"none\" takes a limit away", "users.set",
        "name", "email", "admin", "rate_multiplier", *_LIMITS, "daily_alert",
    )  # fmt: skip
    change.add_argument("name", metavar="NAME")
    change.add_argument("--email", metavar="E", type=text_or_none)
    change.add_argument("--admin", action=argparse.BooleanOptionalAction)
    change.add_argument("--rate-multiplier", metavar="X", help="on every price, such as 1.2")
    _add_limits(change, number_or_none)
    change.add_argument(
        "--daily-alert-usd", metavar="X", type=text_or_none, dest="daily_alert",
        help="tell when a day costs that; 0 is never, none is as configured",
    )  # fmt: skip
    for name, summary in (
        ("suspend", "refuse all keys of a user"),
        ("resume", "take a suspended user's keys again"),
        ("link", "make a one-time link with which a user sets a password"),
        ("end-sessions", "sign a user out of the pages everywhere"),
    ):
        verb = f"users.{name.replace('-', '_')}"
        leaf(users, name, summary, verb, "name").add_argument("name", metavar="NAME")


def _add_limits(parser: argparse.ArgumentParser, kind: Callable[[str], object]) -> None:
    for name, meaning in zip(_LIMITS, _LIMITS_HELP, strict=True):
        parser.add_argument(f"--{name}", metavar="N", type=kind, help=meaning)


def add_keys(verbs: Verbs) -> None:
    """`gateway keys …`."""
    keys = group(verbs, "keys", "gateway keys")
    fields = ("name", *_LIMITS, "models", "expires_ms", "spend_cap", "on_disconnect")
    create = leaf(
        keys, "create", "issue a key; it is shown this once", "keys.create",
        "user", "admin", *fields,
    )  # fmt: skip
    create.add_argument("--user", metavar="NAME", required=True)
    create.add_argument("--name", metavar="TEXT", default="", help="what the key is for")
    _add_limits(create, int)
    create.add_argument("--models", metavar="A,B", type=names, help="only these models")
    create.add_argument(
        "--expires", metavar="D", type=future_ms, dest="expires_ms",
        help="2027-01-31, 2027-01-31T12:00 (UTC unless an offset is given), or 30d, 12h, 90m, 2w",
    )  # fmt: skip
    create.add_argument("--spend-cap", metavar="USD", help="all that it may ever spend: 5.00")
    create.add_argument(
        "--on-disconnect", choices=["cancel", "drain"], help="when its client leaves"
    )
    create.add_argument("--admin", action="store_true", help="for the admin API, and only that")
    listing = leaf(keys, "list", "show keys, without their text", "keys.list", "user", reads=True)
    listing.add_argument("--user", metavar="NAME")
    change = leaf(keys, "set", 'change a key; "none" takes a limit away', "keys.set", "id", *fields)
    change.add_argument("id", metavar="ID")
    change.add_argument("--name", metavar="TEXT", help="what the key is for")
    _add_limits(change, number_or_none)
    change.add_argument("--models", metavar="A,B", type=names_or_none, help="only these models")
    change.add_argument("--expires", metavar="D", type=future_or_none, dest="expires_ms")
    change.add_argument("--spend-cap", metavar="USD", type=text_or_none)
    change.add_argument("--on-disconnect", type=disconnect_or_none, metavar="cancel|drain|none")
    revoke = leaf(keys, "revoke", "refuse a key from now on", "keys.revoke", "id")
    revoke.add_argument("id", metavar="ID")


def add_money(verbs: Verbs) -> None:
    """`gateway credit`, `correct`, `codes …`, `caps …` and `usage`."""
    credit = leaf(
        verbs, "credit", "give a user credit, in US dollars", "credit",
        "user", "amount", "idempotency_key",
    )  # fmt: skip
    credit.add_argument("user", metavar="NAME")
    credit.add_argument("amount", metavar="USD", help="10.00")
    credit.add_argument("--idempotency-key", metavar="K", help="the same key gives once")
    correct = leaf(
        verbs, "correct", "put a balance right by a further entry", "credit.correct",
        "user", "amount", "reason",
    )  # fmt: skip
    correct.add_argument("user", metavar="NAME")
    correct.add_argument("amount", metavar="USD", help="10.00, or -10.00 to take away")
    correct.add_argument("--reason", metavar="TEXT", required=True)
    _add_codes(verbs)
    caps = group(verbs, "caps", "what one call of a model may cost a user")
    change = leaf(caps, "set", "set a cap, or lift it", "caps.set", "user", "model", "amount")
    change.add_argument("user", metavar="USER")
    change.add_argument("model", metavar="MODEL")
    change.add_argument("amount", metavar="USD", type=text_or_none, help="0.05, or none")
    listing = leaf(caps, "list", "show a user's caps", "caps.list", "user", reads=True)
    listing.add_argument("user", metavar="USER")
    usage = leaf(
        verbs, "usage", "sum requests, tokens and money up", "usage",
        "since", "until", "group_by", "user", "key", "model", reads=True,
    )  # fmt: skip
    usage.add_argument("--since", metavar="D", type=day, help="2026-11-01, or 7d (default 29d)")
    usage.add_argument("--until", metavar="D", type=day, help="the last day (default today)")
    usage.add_argument(
        "--by", metavar="A,B", type=names, dest="group_by",
        help="of day, user, key, provider, model (default day)",
    )  # fmt: skip
    usage.add_argument("--user", metavar="NAME")
    usage.add_argument("--key", metavar="ID")
    usage.add_argument("--model", metavar="NAME")


def _add_codes(verbs: Verbs) -> None:
    codes = group(verbs, "codes", "redemption codes")
    create = leaf(
        codes, "create", "make codes; they are shown this once", "codes.create",
        "amount", "count", "expires_ms",
    )  # fmt: skip
    create.add_argument("amount", metavar="USD", help="what each is worth: 10.00")
    create.add_argument("--count", metavar="N", type=int)
    create.add_argument("--expires", metavar="D", type=future_ms, dest="expires_ms")
    listing = leaf(
        codes, "list", "show codes, newest first", "codes.list", "status", "limit", reads=True
    )
    listing.add_argument("--status", choices=["active", "redeemed", "expired"])
    listing.add_argument("--limit", metavar="N", type=int)
    redeem = leaf(codes, "redeem", "credit a code to a user", "codes.redeem", "code", "user")
    redeem.add_argument("code", metavar="CODE")
    redeem.add_argument("--user", metavar="NAME", required=True)


def add_providers(verbs: Verbs, add_key: Run) -> None:
    """`gateway providers …`; `add_key` asks for the key where it is not typed."""
    providers = group(verbs, "providers", "where calls go")
    leaf(providers, "list", "show providers and their keys", "providers.list", reads=True)
    add = special(providers, "add-key", "keep a provider's key, encrypted", add_key)
    add.add_argument("provider", metavar="PROVIDER")
    add.add_argument(
        "key", metavar="KEY", nargs="?", default="-",
        help="better left out, or -: it is then asked for, or read from standard input",
    )  # fmt: skip
    for name, summary, enabled in (
        ("disable-key", "keep a key without using it", False),
        ("enable-key", "use a disabled key again", True),
    ):
        switch = leaf(providers, name, summary, "providers.set_key", "id", "enabled")
        switch.set_defaults(enabled=enabled)
        switch.add_argument("id", metavar="ID")
    remove_key = leaf(providers, "remove-key", "forget a key", "providers.remove_key", "id")
    remove_key.add_argument("id", metavar="ID")
    for name, summary in (
        ("pause", "send nothing to a provider"),
        ("resume", "use a paused provider again"),
        ("remove", "forget all that was set about a provider, its keys too"),
    ):
        word = leaf(providers, name, summary, f"providers.{name}", "name")
        word.add_argument("name", metavar="NAME")
    change = leaf(
        providers, "set", "say where a provider is", "providers.set",
        "name", "format", "base_url", "catalog",
    )  # fmt: skip
    change.add_argument("name", metavar="NAME")
    change.add_argument("--base-url", metavar="URL", required=True, help="https, and public")
    change.add_argument("--format", choices=["openai", "anthropic", "gemini"], required=True)
    change.add_argument("--catalog", metavar="NAME", help="whose prices it has")
    leaf(
        providers, "rotate-master", "encrypt all keys with a new master key",
        "providers.rotate_master",
    )  # fmt: skip


def add_models(verbs: Verbs) -> None:
    """`gateway models …`."""
    models = group(verbs, "models", "what can be called, and at what price")
    listing = leaf(models, "list", "show models", "models.list", "provider", "changed", reads=True)
    listing.add_argument("--provider", metavar="NAME")
    listing.add_argument("--changed", action="store_true", help="only those with settings")
    show = leaf(models, "show", "say what a name stands for", "models.show", "name", reads=True)
    show.add_argument("name", metavar="NAME")
    change = leaf(
        models, "set", "go before the catalog; \"none\" is as the catalog has it", "models.set",
        "provider", "model", "price", "multiplier", "enabled", "context_length",
        "max_output_tokens",
    )  # fmt: skip
    change.add_argument("target", metavar="PROVIDER/MODEL", action=_Target)
    change.add_argument(
        "--price", metavar="CLASS=USD,…", type=price_or_none,
        help="per million tokens: input=2.50,output=10.00,cache_read=1.25",
    )  # fmt: skip
    change.add_argument("--multiplier", metavar="X", help="on the price, such as 1.1")
    switch = change.add_mutually_exclusive_group()
    switch.add_argument("--enable", action="store_true", default=None, dest="enabled")
    switch.add_argument("--disable", action="store_false", default=None, dest="enabled")
    change.add_argument("--context-length", metavar="N", type=number_or_none)
    change.add_argument("--max-output", metavar="N", type=number_or_none, dest="max_output_tokens")
    unset = leaf(
        models, "unset", "forget what was set about a model", "models.unset", "provider", "model"
    )
    unset.add_argument("target", metavar="PROVIDER/MODEL", action=_Target)


def add_receipts(verbs: Verbs, verify: Run, export: Run) -> None:
    """`gateway receipts …`; two of them read the file themselves."""
    receipts = group(verbs, "receipts", "what every request left behind")
    show = leaf(receipts, "show", "show one receipt", "receipts.show", "id", reads=True)
    show.add_argument("id", metavar="ID")
    listing = leaf(
        receipts, "list", "show receipts, newest first", "receipts.list",
        "user", "owner", "limit", "after", "status", "model", reads=True,
    )  # fmt: skip
    whose = listing.add_mutually_exclusive_group()
    whose.add_argument("--user", metavar="NAME", help="of one user")
    whose.add_argument("--owner", metavar="OWNER", help="of one owner: user:1, or byok:<hash>")
    listing.add_argument("--limit", metavar="N", type=int, default=20)
    listing.add_argument("--after", metavar="ID", help="go on below this receipt")
    listing.add_argument("--status", choices=["succeeded", "failed", "cancelled"])
    listing.add_argument("--model", metavar="NAME")
    special(receipts, "verify", "walk the hash chain over all receipts", verify)
    written = special(receipts, "export", "write out receipts, oldest first", export)
    written.add_argument(
        "--since", metavar="D", type=past_ms, dest="since_ms", help="a date, or 7d, 12h, 90m, 2w"
    )
    written.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")


# --- what options hold ------------------------------------------------------------------------


class _Target(argparse.Action):
    """`PROVIDER/MODEL` as two arguments; the model's name may have more slashes."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Take the value apart."""
        provider, _, model = str(values).partition("/")
        if not provider or not model:
            parser.error(f"argument {self.metavar}: expected PROVIDER/MODEL")
        namespace.provider, namespace.model = provider, model


def names(text: str) -> list[str]:
    """Words with commas between them."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError("expected names with commas between them")
    return found


def names_or_none(text: str) -> list[str] | Null:
    """The same, or "none"."""
    return NULL if text == "none" else names(text)


def text_or_none(text: str) -> str | Null:
    """Text as it is, or "none"."""
    return NULL if text == "none" else text


def number_or_none(text: str) -> int | Null:
    """A whole number, or "none"."""
    return NULL if text == "none" else int(text)


def disconnect_or_none(text: str) -> str | Null:
    """What to do when a client leaves, or "none" for the server's default."""
    if text not in ("cancel", "drain", "none"):
        raise argparse.ArgumentTypeError("expected cancel, drain or none")
    return text_or_none(text)


def price_or_none(text: str) -> dict[str, str] | Null:
    """`input=2.50,output=10.00`, or "none"."""
    if text == "none":
        return NULL
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(name and usd for name, _, usd in pairs):
        raise argparse.ArgumentTypeError("expected class=price with commas between, or none")
    return {name: usd for name, _, usd in pairs}


def future_ms(text: str) -> int:
    """A moment to come, in milliseconds since 1970."""
    return _instant_ms(text, +1)


def future_or_none(text: str) -> int | Null:
    """The same, or "none"."""
    return NULL if text == "none" else future_ms(text)


def past_ms(text: str) -> int:
    """A moment gone by, in milliseconds since 1970."""
    return _instant_ms(text, -1)


def day(text: str) -> str:
    """A day (UTC) as 2026-11-21; a span is counted back from now."""
    epoch = date(1970, 1, 1)
    return (epoch + timedelta(days=_instant_ms(text, -1) // 86_400_000)).isoformat()


def _instant_ms(text: str, direction: Literal[1, -1]) -> int:
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
