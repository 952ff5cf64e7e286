"""Providers at run time: where each one lives, which keys it has, what it serves.

Built from a `Config` and from what admins set (`ProviderSettings`, stored keys) by `app.py`, anew
at each change; read by routing and the sender. What became of the keys is in each provider's
`pool`, which `health.py` hands on from one build to the next.

A base URL that an admin set is *guarded* (`proxy/guard.py`), and the keys of the configuration do
not go there: they were given for the address beside which they stand. Only stored keys do.
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway import config as cfg
from gateway.config import Config, Family
from gateway.ledger.records import ProviderSettings
from gateway.proxy import key_pool
from gateway.proxy.key_pool import KeyPool, PoolKey
from gateway.proxy.upstream import Origin, parse_base_url

DEMO_BASES: dict[Family, str] = {
    "openai": "/v1",
    "anthropic": "/anthropic/v1",
    "gemini": "/gemini/v1beta",
}
"""Where the built-in upstream serves each family."""

FAMILIES: tuple[Family, ...] = ("openai", "anthropic", "gemini")

Stored = Mapping[str, Sequence[tuple[str, str]]]
"""Provider -> the keys that admins added to it and that are enabled: (id, text)."""


class Base(msgspec.Struct, frozen=True):
    """Where one family of a provider is reached: origin and path prefix."""

    origin: Origin
    prefix: str


class Provider:
    """One configured provider."""

    def __init__(
        self,
        name: str,
        settings: cfg.Provider,
        bases: dict[Family, Base],
        stored: Sequence[tuple[str, str]] = (),
        *,
        guarded: bool = False,
    ) -> None:
        self.name = name
        self.catalog_name = settings.catalog or name
        self.builtin = demo = settings.base_url == cfg.BUILTIN_DEMO
        self.unmetered = settings.unmetered or demo
        self.include_usage = settings.include_usage
        self.responses = settings.responses
        if self.responses is None:
            self.responses = demo or self.catalog_name == "openai"
        self.bases = bases
        configured = () if guarded else settings.keys
        keys = [key_pool.made(text, of) for of, text in stored]
        keys += [key_pool.made(text) for one in configured if (text := cfg.secret(one)) is not None]
        if demo and not keys:
            keys = [PoolKey(None, b"demo", "demo")]  # it wants some credential, as the real ones do
        self.pool = KeyPool(keys)
        self.keyless = not (keys or configured or guarded)
        """True where no key was configured at all: a local server that wants none. What an admin
        may add is on the public internet, where every server wants one."""

    @property
    def address(self) -> tuple[tuple[str, ...], ...]:
        """Where it is, without how long it is waited for: whose keys and failures are known."""
        return tuple(
            (family, base.origin.scheme, base.origin.netloc, base.prefix)
            for family, base in self.bases.items()
        )

    @property
    def active(self) -> bool:
        """Whether it was given what it takes to serve a gateway key."""
        return self.keyless or bool(self.pool.keys)


def build(
    config: Config,
    demo_port: int | None,
    settings: Mapping[str, ProviderSettings] | None = None,
    stored: Stored | None = None,
) -> dict[str, Provider]:
    """The providers of a config, then those that admins added.

    `demo_port` is where the built-in upstream listens; without it there is none. What admins set
    about a provider goes before the configuration.
    """
    settings, stored = settings or {}, stored or {}
    providers = {}
    for name, configured in _all(config, settings).items():
        section, guarded = _changed(configured, settings.get(name))
        if section.base_url == cfg.BUILTIN_DEMO:
            if demo_port is None:
                continue
            origin = _origin(config, section, f"http://127.0.0.1:{demo_port}")
            bases = {family: Base(origin, prefix) for family, prefix in DEMO_BASES.items()}
        else:
            assert section.format != "all"
            origin = _origin(config, section, section.base_url, guarded=guarded)
            bases = {section.format: Base(origin, parse_base_url(section.base_url)[3])}
        providers[name] = Provider(name, section, bases, stored.get(name, ()), guarded=guarded)
    return providers


def _all(
    config: Config, settings: Mapping[str, ProviderSettings]
) -> dict[str, cfg.Provider | None]:
    """Every provider by name, with its section where the configuration has one."""
    found: dict[str, cfg.Provider | None] = dict(config.providers)
    for name, one in settings.items():
        if one.base_url is not None and one.format is not None:
            found.setdefault(name, None)
    return found


def _changed(
    section: cfg.Provider | None, settings: ProviderSettings | None
) -> tuple[cfg.Provider, bool]:
    """A provider's section as admins changed it, and whether its base URL is one of theirs."""
    if settings is None:
        assert section is not None
        return section, False
    if settings.base_url is None or settings.format is None:
        assert section is not None
        if settings.catalog is not None:
            section = msgspec.structs.replace(section, catalog=settings.catalog)
        return section, False
    own = section or cfg.Provider(format=settings.format, base_url=settings.base_url)
    changed = msgspec.structs.replace(
        own,
        format=settings.format,
        base_url=settings.base_url,
        catalog=settings.catalog or own.catalog,
    )
    return changed, True


def _origin(
    config: Config, settings: cfg.Provider, base_url: str, *, guarded: bool = False
) -> Origin:
    common = config.upstream
    scheme, host, port, _ = parse_base_url(base_url)
    return Origin(
        scheme=scheme,
        host=host,
        port=port,
        ca_file=common.ca_file if settings.ca_file is None else settings.ca_file,
        connect_s=settings.connect_seconds or common.connect_seconds,
        first_byte_s=settings.first_byte_seconds or common.first_byte_seconds,
        idle_s=settings.idle_seconds or common.idle_seconds,
        guarded=guarded,
    )
