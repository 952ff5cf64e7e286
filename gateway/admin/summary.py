"""What a configuration amounts to, for `check-config`: as a value, and as lines for people."""

import msgspec

from gateway.admin.show import plain, table
from gateway.config import BUILTIN_DEMO, Config, secret


class ConfiguredProvider(msgspec.Struct, frozen=True):
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
    providers: list[ConfiguredProvider]
    object: str = "config"


def check(path: str, config: Config) -> ConfigView:
    """Sum a configuration up."""
    server = config.server
    scheme = "https" if server.tls_cert else "http"
    providers = []
    for name, provider in config.providers.items():
        keys_set = sum(secret(key) is not None for key in provider.keys)
        providers.append(
            ConfiguredProvider(
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


def lines(view: ConfigView) -> list[str]:
    """A configuration, for people."""
    found = [f"{view.path}: fine", f"listens on  {view.listen}", f"store       {view.store}", ""]
    rows = [
        [provider.name, provider.format, provider.base_url, _keys_cell(provider)]
        for provider in view.providers
    ]
    found += table(["PROVIDER", "FORMAT", "BASE URL", "KEYS"], rows)
    return [plain(line) for line in found]


def _keys_cell(provider: ConfiguredProvider) -> str:
    if provider.base_url == BUILTIN_DEMO:
        return "built in"
    if not provider.keys:
        return "none needed"
    state = "" if provider.active else " (inactive)"
    return f"{provider.keys_set} of {provider.keys} set{state}"
