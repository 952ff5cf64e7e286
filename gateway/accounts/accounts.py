"""Users, keys and their money: a snapshot in memory, and the verbs that change it.

`identify` runs on every request: one keyed hash and one dictionary look-up, no I/O. A verb commits
through the ledger's writer first and changes the snapshot only then, so what is answered here is
always durable; a revoked key is out of the dictionary before the verb returns.

Money that is given is in the user's `Funds` once it is durable, and never before; what requests
take is held and settled there by the proxy, which writes the charge at the same time.

Event-loop thread only. Called by the request handler (`identify`, `why_refused`, `user`, `funds`,
`key_funds`, `cap`), the admin verbs (all else), `SignIn` (`users_with_email`, `commit`, `put_user`)
and `app.py` (`load`, and the verbs on a first run).
A refused verb raises `Conflict`, `Missing` where what it names is not there.
"""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from gateway.accounts import changes, codes, keys
from gateway.accounts.changes import UNLIMITED, KeyChanges, UserChanges
from gateway.accounts.changes import KeySpec as KeySpec
from gateway.accounts.funds import NO_CAP, Funds
from gateway.errors import Conflict, GatewayError, Missing
from gateway.ledger import money, store, usage
from gateway.ledger.records import CREDIT_ACCOUNT, Cap, Code, Key, User, email_form
from gateway.ledger.writer import Ledger

Refusal = Literal["malformed", "unknown", "revoked", "expired", "suspended"]
KeyStatus = Literal["active", "revoked", "expired", "suspended"]

_ID_CHARS = 16

_MESSAGES: dict[Refusal, str] = {
    "malformed": "Invalid API key: its checksum does not match; check it for a typo",
    "unknown": "Invalid API key: no such key was issued here",
    "revoked": "Invalid API key: it has been revoked",
    "expired": "Invalid API key: it has expired",
    "suspended": "Invalid API key: its user is suspended",
}

T = TypeVar("T")


class Credit(msgspec.Struct, frozen=True):
    """A credit or correction that was made, and the balance right after it, in nano-USD.

    `nano_usd` is below zero where it took away.
    """

    id: str
    user: str
    nano_usd: int
    balance_nano_usd: int
    created_ms: int


_decode_credit = msgspec.json.Decoder(Credit).decode


class _Stored(msgspec.Struct):
    """All that the snapshot is made of."""

    users: list[User]
    keys: list[Key]
    balances: dict[int, int]
    spent: dict[str, int]
    caps: list[Cap]


def _read_all(conn: sqlite3.Connection) -> _Stored:
    return _Stored(
        store.list_users(conn),
        store.list_keys(conn),
        money.balances(conn),
        usage.spent_by_key(conn),
        money.caps(conn),
    )


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Accounts:
    """The snapshot. Make one with `load`; there is one per open ledger."""

    def __init__(
        self, ledger: Ledger, secret: bytes, prefix: str, clock_ms: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._prefix = prefix
        self._clock_ms = clock_ms
        # A copy of a hash that has already taken its key skips one of two BLAKE2b blocks:
        # 0.39 µs a credential instead of 0.57.
        self._keyed = hashlib.blake2b(key=secret, digest_size=keys.HASH_BYTES)
        self._secret = secret
        self._users: dict[int, User] = {}
        self._user_ids: dict[str, int] = {}
        self._by_email: dict[str, set[int]] = {}
        self._keys: dict[str, Key] = {}
        self._keys_of: dict[int, dict[str, None]] = {}
        self._funds: dict[int, Funds] = {}
        self._key_funds: dict[str, Funds] = {}
        self._caps: dict[tuple[int, str], int] = {}
        self._live: dict[bytes, Key] = {}
        self._dead: dict[bytes, Refusal] = {}
        self._order = asyncio.Lock()
        self._writing: set[asyncio.Task[object]] = set()

    @classmethod
    async def load(
        cls,
        ledger: Ledger,
        secret: bytes,
        prefix: str,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> "Accounts":
        """Read the store: users, keys, balances, caps. Before the first request, not after.

        `secret` is the one `secret.load` gave.
        """
        accounts = cls(ledger, secret, prefix, clock_ms)
        stored = await ledger.read(_read_all)
        for user in stored.users:
            accounts.put_user(user)
            accounts._funds[user.id].deposit(stored.balances.get(user.id, 0))
        for key in stored.keys:
            accounts._put_key(key)
            accounts._key_funds[key.id].deposit(-stored.spent.get(key.id, 0))
        for cap in stored.caps:
            accounts._caps[cap.user_id, cap.model] = cap.nano_usd
        return accounts

    # The hot path

    def identify(self, credential: bytes, now_ms: int) -> Key | None:
        """The key this credential is, or None if it admits nobody now (see `why_refused`)."""
        hasher = self._keyed.copy()
        hasher.update(credential)
        key = self._live.get(hasher.digest())
        if key is not None and key.expires_ms is not None and key.expires_ms <= now_ms:
            return None
        return key

    def why_refused(self, credential: bytes, now_ms: int) -> Refusal:
        """Why `identify` gave None. For a credential it accepts the answer means nothing."""
        hashed = keys.hash_key(self._secret, credential)
        if refusal := self._dead.get(hashed):
            return refusal
        key = self._live.get(hashed)
        if key is not None and key.expires_ms is not None and key.expires_ms <= now_ms:
            return "expired"
        text = credential.decode("ascii", "replace")
        return "malformed" if keys.check(self._prefix, text) == "malformed" else "unknown"

    def refusal(self, credential: bytes, now_ms: int) -> GatewayError:
        """The 401 to answer where `identify` gave None; it never quotes the credential."""
        reason = self.why_refused(credential, now_ms)
        return GatewayError("invalid_api_key", _MESSAGES[reason])

    def user(self, user_id: int) -> User:
        """The owner of a key: its rate multiplier and limits. KeyError if there is none."""
        return self._users[user_id]

    def funds(self, user_id: int) -> Funds:
        """A user's balance and what is held of it. KeyError if there is no such user."""
        return self._funds[user_id]

    def key_funds(self, key_id: str) -> Funds:
        """What a key may still spend: without a cap, more than any user has. KeyError if none."""
        return self._key_funds[key_id]

    def cap(self, user_id: int, model: str) -> int | None:
        """The most that one call of a model, by the name that callers use, may cost; nano-USD."""
        return self._caps.get((user_id, model))

    # The verbs: users and keys

    async def create_user(
        self, name: str, *, email: str | None = None, admin: bool = False
    ) -> User:
        """Add a user. `Conflict` if the name or e-mail is taken, or is none."""
        name = changes.checked_name(name)
        if email is not None:
            changes.check_email(email)
        now_ms = self._clock_ms()
        return await self.commit(
            lambda conn: store.create_user(
                conn, name=name, email=email, admin=admin, created_ms=now_ms
            ),
            self.put_user,
        )

    def list_users(self) -> list[User]:
        """All users, in the order they were made."""
        return sorted(self._users.values(), key=lambda user: user.id)

    def user_named(self, name: str) -> User:
        """The user of that name. `Missing` if there is none."""
        user_id = self._user_ids.get(changes.same_form(name))
        if user_id is None:
            raise Missing(f"there is no user {name!r}")
        return self._users[user_id]

    def has_user(self, name: str) -> bool:
        """Whether a user has that name."""
        return changes.same_form(name) in self._user_ids

    def users_with_email(self, email: str) -> list[User]:
        """Whose e-mail it is, in any case: one user, or several of a store from before that."""
        found = self._by_email.get(email_form(email), ())
        return [self._users[user_id] for user_id in sorted(found)]

    async def update_user(self, name: str, wanted: UserChanges) -> User:
        """Change a user from the next request on.

        `Conflict` where a value is out of bounds, or the e-mail another user's.
        """
        columns = changes.of_user(wanted)
        return await self.commit(
            lambda conn: store.update_user(conn, _existing_user(conn, name).name, **columns),
            self.put_user,
        )

    async def suspend_user(self, name: str) -> User:
        """Refuse all keys of a user from now on. `Missing` if there is no such user."""
        now_ms = self._clock_ms()

        def change(conn: sqlite3.Connection) -> User:
            return store.suspend_user(conn, _existing_user(conn, name).name, now_ms)

        return await self.commit(change, self.put_user)

    async def resume_user(self, name: str) -> User:
        """Take a user's keys again, except those that were revoked or have expired."""
        return await self.commit(
            lambda conn: store.resume_user(conn, _existing_user(conn, name).name), self.put_user
        )

    async def create_key(self, user_name: str, spec: KeySpec = UNLIMITED) -> tuple[Key, str]:
        """Issue a key and return it with its text: the only time that the text exists.

        `Conflict` if the user is suspended, or the spec asks for the impossible: an admin key for
        a user who is none, too.
        """
        now_ms = self._clock_ms()
        columns = changes.of_key(spec, now_ms)
        text = keys.mint(self._prefix)
        key_id = "key_" + keys.random_text(_ID_CHARS)

        def change(conn: sqlite3.Connection) -> Key:
            user = _existing_user(conn, user_name)
            if user.suspended_ms is not None:
                raise Conflict(f"user {user.name!r} is suspended")
            if spec.admin and not user.admin:
                raise Conflict(f"admin: user {user.name!r} is not an admin")
            key = Key(
                id=key_id,
                user_id=user.id,
                user_name=user.name,
                hint=keys.hint(self._prefix, text),
                created_ms=now_ms,
                hash=keys.hash_key(self._secret, text.encode()),
                **columns,
            )
            return store.create_key(conn, key)

        return await self.commit(change, self._put_key), text

    def list_keys(self, user_name: str | None = None) -> list[Key]:
        """All keys, or those of one user (`Missing` if unknown), oldest first."""
        if user_name is None:
            found = list(self._keys.values())
        else:
            theirs = self._keys_of.get(self.user_named(user_name).id, ())
            found = [self._keys[key_id] for key_id in theirs]
        return sorted(found, key=lambda key: (key.created_ms, key.id))

    def key(self, key_id: str) -> Key:
        """The key of that id, whatever its status. `Missing` if there is none."""
        key = self._keys.get(key_id)
        if key is None:
            raise Missing(f"there is no key {key_id!r}")
        return key

    def key_status(self, key: Key, now_ms: int) -> KeyStatus:
        """What a key is worth at a moment."""
        if key.revoked_ms is not None:
            return "revoked"
        if self._users[key.user_id].suspended_ms is not None:
            return "suspended"
        if key.expires_ms is not None and key.expires_ms <= now_ms:
            return "expired"
        return "active"

    async def update_key(self, key_id: str, wanted: KeyChanges) -> Key:
        """Change a key from the next request on; what it has spent counts against a new cap.

        `Conflict` where a value is out of bounds.
        """
        columns = changes.of_key(wanted, self._clock_ms())
        return await self.commit(
            lambda conn: store.update_key(conn, key_id, **columns), self._put_key
        )

    async def revoke_key(self, key_id: str) -> Key:
        """Refuse a key from now on. `Missing` if unknown; revoking twice changes nothing."""
        now_ms = self._clock_ms()
        return await self.commit(lambda conn: store.revoke_key(conn, key_id, now_ms), self._put_key)

    # The verbs: money

    async def credit(
        self, name: str, nano_usd: int, *, idempotency_key: str | None = None
    ) -> Credit:
        """Give a user prepaid credit.

        With an `idempotency_key` it is given once, whoever asks how often: further calls get the
        answer of the first. `KeyReused` if they ask for another amount or user.
        """
        changes.check_amount("credit", nano_usd)
        if idempotency_key is not None:
            limit = changes.IDEMPOTENCY_KEY_CHARS_MAX
            changes.check_text("idempotency_key", idempotency_key, limit)
        ref = "credit_" + keys.random_text(_ID_CHARS)
        now_ms = self._clock_ms()

        def give(conn: sqlite3.Connection, user: User) -> bytes:
            given = money.Transfer(ref, "credit", CREDIT_ACCOUNT, user.id, nano_usd, now_ms)
            money.post_transfer(conn, given)
            left = money.balance(conn, user.id)
            return msgspec.json.encode(Credit(ref, user.name, nano_usd, left, now_ms))

        def change(conn: sqlite3.Connection) -> tuple[Credit, User, bool]:
            user = _existing_user(conn, name)
            if idempotency_key is None:
                return _decode_credit(give(conn, user)), user, True
            fingerprint = hashlib.sha256(msgspec.json.encode(("credit", user.id, nano_usd)))
            answer, fresh = money.once(
                conn, idempotency_key, fingerprint.digest(), lambda: give(conn, user), now_ms
            )
            return _decode_credit(answer), user, fresh

        def apply(outcome: tuple[Credit, User, bool]) -> None:
            _, user, fresh = outcome
            if fresh:
                self._funds[user.id].deposit(nano_usd)

        return (await self.commit(change, apply))[0]

    async def correct(self, name: str, nano_usd: int, reason: str) -> Credit:
        """Add to a balance, or take from it where below zero: a further entry, with its reason.

        The balance may end below zero: what was given by mistake may be spent already.
        """
        changes.check_amount("correction", abs(nano_usd))
        changes.check_text("reason", reason, changes.REASON_CHARS_MAX)
        ref = "correction_" + keys.random_text(_ID_CHARS)
        now_ms = self._clock_ms()

        def change(conn: sqlite3.Connection) -> tuple[Credit, int]:
            user = _existing_user(conn, name)
            left = money.correct(conn, ref, user.id, nano_usd, reason, now_ms)
            return Credit(ref, user.name, nano_usd, left, now_ms), user.id

        made = await self.commit(change, lambda it: self._funds[it[1]].deposit(nano_usd))
        return made[0]

    async def create_codes(
        self, nano_usd: int, count: int = 1, expires_ms: int | None = None
    ) -> list[tuple[Code, str]]:
        """Make redemption codes, each with its text: the only time that the text exists."""
        changes.check_amount("amount", nano_usd)
        if not 1 <= count <= changes.CODES_MAX:
            raise Conflict(f"count: expected 1 to {changes.CODES_MAX}")
        now_ms = self._clock_ms()
        changes.check_expiry(expires_ms, now_ms)
        made = [codes.mint(self._secret, nano_usd, now_ms, expires_ms) for _ in range(count)]
        await self._ledger.execute(lambda conn: money.add_codes(conn, (code for code, _ in made)))
        return made

    async def list_codes(self) -> list[Code]:
        """All codes, oldest first."""
        return await self._ledger.read(money.list_codes)

    async def redeem(self, user_name: str, text: str) -> tuple[Code, int]:
        """Credit a code to a user: the code, and the user's balance right after it.

        `Conflict` if it was redeemed before, has expired or has a typo; `Missing` if no such code
        was issued. A code is redeemed once, ever.
        """
        digest = codes.digest(self._secret, text)
        now_ms = self._clock_ms()

        def change(conn: sqlite3.Connection) -> tuple[Code, int, int]:
            user = _existing_user(conn, user_name)
            code = money.redeem(conn, digest, user.id, now_ms)
            return code, money.balance(conn, user.id), user.id

        code, left, _ = await self.commit(
            change, lambda it: self._funds[it[2]].deposit(it[0].nano_usd)
        )
        return code, left

    async def set_cap(self, user_name: str, model: str, nano_usd: int | None) -> None:
        """Bound what one call of a model may cost a user; None lifts the bound.

        `model` is the name that callers use.
        """
        changes.check_model("model", model)
        if nano_usd is not None:
            changes.check_amount("cap", nano_usd)

        def change(conn: sqlite3.Connection) -> int:
            user = _existing_user(conn, user_name)
            money.set_cap(conn, user.id, model, nano_usd)
            return user.id

        def apply(user_id: int) -> None:
            if nano_usd is None:
                self._caps.pop((user_id, model), None)
            else:
                self._caps[user_id, model] = nano_usd

        await self.commit(change, apply)

    def caps(self, user_name: str) -> list[Cap]:
        """A user's caps, by model. `Missing` if there is no such user."""
        user_id = self.user_named(user_name).id
        found = ((key, nano_usd) for key, nano_usd in self._caps.items() if key[0] == user_id)
        return [Cap(user_id, model, nano_usd) for (_, model), nano_usd in sorted(found)]

    async def balance(self, name: str) -> int:
        """A user's balance in nano-USD: what is durable, holds not subtracted. `Missing`."""
        return await self._ledger.read(
            lambda conn: money.balance(conn, _existing_user(conn, name).id)
        )

    def held(self, name: str) -> int:
        """What calls under way hold of a user's balance, in nano-USD. `Missing`."""
        return self._funds[self.user_named(name).id].held

    # The snapshot

    async def commit(
        self, change: Callable[[sqlite3.Connection], T], apply: Callable[[T], None]
    ) -> T:
        """Commit, then apply to the snapshot, one verb at a time. For this class and `SignIn`.

        Both run to the end even if the caller is cancelled (its client hung up): a revocation
        that is in the store but not in the snapshot would leave the key working.
        """

        async def run() -> T:
            async with self._order:
                result = await self._ledger.execute(change)
                apply(result)
                return result

        task = asyncio.get_running_loop().create_task(run())
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[object]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # asked for where the caller hung up, or asyncio logs it as a fault

    def put_user(self, user: User) -> None:
        """Take a user as they are now; inside of an `apply` of `commit`."""
        before = self._users.get(user.id)
        if before is not None and before.email is not None:
            self._by_email[email_form(before.email)].discard(user.id)
        if user.email is not None:
            self._by_email.setdefault(email_form(user.email), set()).add(user.id)
        self._users[user.id] = user
        self._user_ids[user.name] = user.id
        if before is None:
            self._funds[user.id] = Funds()
        if before is not None and before.suspended_ms != user.suspended_ms:
            for key_id in self._keys_of.get(user.id, ()):
                self._put_key(self._keys[key_id])

    def _put_key(self, key: Key) -> None:
        before = self._keys.get(key.id)
        self._keys[key.id] = key
        if before is None:
            self._keys_of.setdefault(key.user_id, {})[key.id] = None
            self._key_funds[key.id] = Funds(_spendable(key))
        else:
            self._key_funds[key.id].deposit(_spendable(key) - _spendable(before))
        refusal: Refusal | None = None
        if key.revoked_ms is not None:
            refusal = "revoked"
        elif self._users[key.user_id].suspended_ms is not None:
            refusal = "suspended"
        if refusal is None:
            self._dead.pop(key.hash, None)
            self._live[key.hash] = key
        else:
            self._live.pop(key.hash, None)
            self._dead[key.hash] = refusal


def _existing_user(conn: sqlite3.Connection, name: str) -> User:
    user = store.find_user(conn, changes.same_form(name))
    if user is None:
        raise Missing(f"there is no user {name!r}")
    return user


def _spendable(key: Key) -> int:
    return NO_CAP if key.spend_cap_nano_usd is None else key.spend_cap_nano_usd
