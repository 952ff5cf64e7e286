"""What the verbs answer with: values that become JSON, and nothing else.

The socket and the admin API write them, the command line reads them, the description of the API
lists their fields. Money is integer nano-USD together with US dollars as text (`Money`, or
`nano_usd` beside `amount`), times are RFC 3339 in UTC. No text of a key or code is in them, save
in the answer that makes it. Imports little, so that the command line stays quick.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.accounts.amounts import Money

KeyStatus = Literal["active", "revoked", "expired", "suspended"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or a part of one."""


class UserView(View, frozen=True, kw_only=True):
    """A user. `held` is what calls under way may still take of the `balance`.

    Limits are null where the server's defaults hold, `daily_alert` where the configuration's does.
    """

    id: int
    object: Literal["user"] = "user"
    name: str
    email: str | None
    admin: bool
    status: Literal["active", "suspended"]
    created_at: str
    suspended_at: str | None
    rate_multiplier: str
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    daily_alert: Money | None
    balance: Money
    held: Money


class SignInLinkView(View, frozen=True, kw_only=True):
    """A link with which a user sets a password and is signed in, once, until `expires_at`.

    `token` is in this answer and nowhere else. `path` is the page that takes it, behind the `#`,
    which browsers send to no server; `url` is null where the gateway's own address is not known.
    """

    object: Literal["sign_in_link"] = "sign_in_link"
    user: str
    token: str
    path: str
    url: str | None
    expires_at: str


class SessionsEndedView(View, frozen=True, kw_only=True):
    """In how many places a user was signed in, and is no more."""

    object: Literal["sessions_ended"] = "sessions_ended"
    user: str
    ended: int


class UserList(View, frozen=True, kw_only=True):
    """All users."""

    object: Literal["list"] = "list"
    data: list[UserView]


class KeyView(View, frozen=True, kw_only=True):
    """A key. `key` is its text: present in the answer that made it, and only there.

    `spent` is all that it was ever charged, `spend_cap` what that may come to.
    """

    id: str
    object: Literal["api_key"] = "api_key"
    key: str | UnsetType = UNSET
    user: str
    name: str
    hint: str
    status: KeyStatus
    admin: bool
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    models: list[str] | None
    spend_cap: Money | None
    spent: Money
    on_disconnect: Literal["cancel", "drain"] | None


class KeyList(View, frozen=True, kw_only=True):
    """Some keys."""

    object: Literal["list"] = "list"
    data: list[KeyView]


class CreditView(View, frozen=True, kw_only=True):
    """Credit given to a user, and the balance right after it."""

    id: str
    object: Literal["credit"] = "credit"
    user: str
    nano_usd: int
    amount: str
    balance: Money
    created_at: str


class CorrectionView(View, frozen=True, kw_only=True):
    """An entry that corrects a balance, upwards or downwards, and the balance right after it."""

    id: str
    object: Literal["correction"] = "correction"
    user: str
    nano_usd: int
    amount: str
    reason: str
    balance: Money
    created_at: str


class CodeView(View, frozen=True, kw_only=True):
    """A redemption code. `code` is its text: present in the answer that made it, and only there."""

    id: str
    object: Literal["redemption_code"] = "redemption_code"
    code: str | UnsetType = UNSET
    hint: str
    nano_usd: int
    amount: str
    status: Literal["active", "redeemed", "expired"]
    created_at: str
    expires_at: str | None
    redeemed_at: str | None
    redeemed_by: str | None


class CodeList(View, frozen=True, kw_only=True):
    """Some codes."""

    object: Literal["list"] = "list"
    data: list[CodeView]


class RedemptionView(View, frozen=True, kw_only=True):
    """A code that was redeemed, and the balance right after it."""

    id: str
    object: Literal["redemption"] = "redemption"
    user: str
    nano_usd: int
    amount: str
    balance: Money


class CapView(View, frozen=True, kw_only=True):
    """The most that one call of a model may cost a user; null where there is no cap."""

    object: Literal["cap"] = "cap"
    user: str
    model: str
    nano_usd: int | None
    amount: str | None


class CapList(View, frozen=True, kw_only=True):
    """The caps of one user."""

    object: Literal["list"] = "list"
    data: list[CapView]


class ProviderKeyView(View, frozen=True, kw_only=True):
    """A provider's key, masked. `id` is null for one of the configuration.

    `state` is `no_value` where the environment variable that it names is not set, `unreadable`
    where it cannot be decrypted; `resting`, `set_aside` and `models` only a running server knows.
    """

    id: str | None
    object: Literal["provider_key"] = "provider_key"
    provider: str
    hint: str
    state: Literal["usable", "resting", "set_aside", "no_value", "disabled", "unreadable"]
    created_at: str | None = None
    rests_until: str | None = None
    models: list[str] = []


class BreakerView(View, frozen=True, kw_only=True):
    """A model of a provider that failed lately; an open breaker is tried again at `probes_at`."""

    model: str
    state: Literal["closed", "open", "due", "probing"]
    failures: int
    probes_at: str | None


class DayView(View, frozen=True, kw_only=True):
    """What a provider cost this day (UTC) at list price, and the day's thresholds."""

    spent: Money
    alert: Money | None
    stop: Money | None


class ProviderView(View, frozen=True, kw_only=True):
    """A provider. `breakers` and `today` are null where no server runs."""

    name: str
    object: Literal["provider"] = "provider"
    source: Literal["config", "admin"]
    format: str
    base_url: str
    catalog: str | None
    active: bool
    paused_at: str | None
    paused_by: str | None
    keys: list[ProviderKeyView]
    breakers: list[BreakerView] | None
    today: DayView | None


class ProviderList(View, frozen=True, kw_only=True):
    """All providers."""

    object: Literal["list"] = "list"
    data: list[ProviderView]


class RotationView(View, frozen=True, kw_only=True):
    """A new master key seals: `keys` were sealed anew. `left_to_do` is the operator's, or null."""

    object: Literal["rotation"] = "rotation"
    version: int
    keys: int
    left_to_do: str | None


class ModelView(View, frozen=True, kw_only=True):
    """A model of a provider, at list price: US dollars per million tokens, by class.

    `price` is null where nobody knows one; then it cannot be called with a gateway key.
    `settings` is what an admin set, null where nothing; `multiplier` is on top of the price.
    """

    id: str
    object: Literal["model"] = "model"
    provider: str
    name: str
    enabled: bool
    price: dict[str, str] | None
    price_version: str | None
    multiplier: str
    context_length: int | None
    max_output_tokens: int | None
    settings: "ModelSettingsView | None"


class ModelSettingsView(View, frozen=True, kw_only=True):
    """What an admin set about a model; null leaves the catalog's."""

    enabled: bool
    multiplier: str
    price: dict[str, str] | None
    context_length: int | None
    max_output_tokens: int | None


class ModelList(View, frozen=True, kw_only=True):
    """Models of the providers that are configured or set up."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class ModelNameView(View, frozen=True, kw_only=True):
    """What a name of a model stands for: in order, the models that it may be answered by."""

    name: str
    object: Literal["model_name"] = "model_name"
    alias: bool
    strategy: str | None
    targets: list[ModelView]


class DeletedView(View, frozen=True, kw_only=True):
    """It is gone."""

    id: str
    object: Literal["deleted"] = "deleted"
    deleted: bool = True


class ReceiptList(View, frozen=True, kw_only=True):
    """Some receipts, each as the public JSON of a receipt."""

    object: Literal["list"] = "list"
    data: list[Raw]
    has_more: bool


class VerifyView(View, frozen=True, kw_only=True):
    """What a walk along the receipt chain found; see `ledger.records.VerifyResult`."""

    object: Literal["verification"] = "verification"
    ok: bool
    checked: int
    problem: str | None
    sequence: int | None
    receipt_id: str | None
    message: str


class BooksView(View, frozen=True, kw_only=True):
    """What a walk through the books found; see `ledger.money.Books`.

    `wrong` names each thing wrong. `overspent` is what calls cost beyond what was held for them.
    """

    object: Literal["ledger_check"] = "ledger_check"
    ok: bool
    wrong: list[str]
    accounts: int
    transfers: int
    receipts: int
    credited: Money
    charged: Money
    overspent: Money


class InFlightView(View, frozen=True, kw_only=True):
    """A request being served; `id` is that of its receipt."""

    id: str
    object: Literal["request"] = "request"
    user: str | None
    owner: str
    endpoint: str
    model: str
    provider: str | None
    stream: bool
    created_at: str
    attempts: int
    held: Money


class InFlightList(View, frozen=True, kw_only=True):
    """The requests being served, the oldest first."""

    object: Literal["list"] = "list"
    data: list[InFlightView]


class ReloadView(View, frozen=True, kw_only=True):
    """What a reload changed, and what waits for a restart: paths of keys of the configuration."""

    object: Literal["reload"] = "reload"
    changed: list[str]
    needs_restart: list[str]
