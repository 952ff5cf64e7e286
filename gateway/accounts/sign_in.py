"""Who is signed in to the pages: sessions, passwords and one-time links, and how they are had.

A session is a row of the store and an entry of the snapshot here; `session` answers from the
snapshot, without I/O. What changes is committed first, through `Accounts.commit`, and so in one
order with everything else about users. A token (of a session, of a link) is 256 random bits; only a
hash of it, keyed with the server's secret, is kept. Deciding what somebody may do is not done here:
a session gives a user's id, and whoever asks reads the user of the moment.

Event-loop thread only. Called by the pages, the admin verbs (`make_link`, `end_sessions`) and
`app.py`. What a sign-in is refused for is told by `SignInRefused`; a rule that something typed
breaks is a `Conflict` whose message opens with the field.
"""

import hashlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.accounts import changes, passwords
from gateway.accounts.accounts import Accounts, wall_clock_ms
from gateway.accounts.attempts import Attempts, address_form
from gateway.accounts.passwords import Passwords, PasswordsBusy
from gateway.errors import Conflict
from gateway.ledger import sign_in, store
from gateway.ledger.records import Session, SignInLink, User, email_form
from gateway.ledger.writer import Ledger

_log = logging.getLogger(__name__)

LINK_MS = 24 * 3_600_000
"""How long a one-time link can be used."""

SESSIONS_MAX = 50
"""Of one user; with one more the oldest ends."""

WINDOW_MS = 15 * 60_000
EMAIL_ATTEMPTS_MAX = 10
ADDRESS_ATTEMPTS_MAX = 30
"""Failed attempts within `WINDOW_MS`, to one e-mail and from one address."""

SIGN_UP_WINDOW_MS = 3_600_000
SIGN_UPS_MAX = 5
"""New users within `SIGN_UP_WINDOW_MS`, from one address."""

_TOKEN_BYTES = 32
_SESSION = b"gateway.session"
_LINK = b"gateway.link"
"""What a hash is of: a link's token can be no session's, nor the other way around."""

_WRONG = "The e-mail address or the password is wrong"
_DEAD_LINK = "This link was used before, or has expired: ask for a new one"
_BUSY = "Too many people are signing in at this moment: try again in a few seconds"
_BUSY_RETRY_S = 2


class SignInRefused(Exception):
    """A sign-in is refused; the message is for whoever tries, and quotes nothing of what they sent.

    `retry_after_s` is set where trying again later helps, and with nothing else being wrong, will.
    """

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class _Begun(NamedTuple):
    """What goes before a new session in its transaction; `user` where they have a new password."""

    user_id: int
    user: User | None = None
    ended: Iterable[str] = ()


def monotonic_ms() -> int:
    """Milliseconds of a clock that nobody sets."""
    return time.monotonic_ns() // 1_000_000


class SignIn:
    """See the module docstring. Make one with `load`; there is one per open ledger."""

    def __init__(
        self,
        accounts: Accounts,
        secret: bytes,
        hasher: Passwords,
        clocks: tuple[Callable[[], int], Callable[[], int]],
    ) -> None:
        """Use `SignIn.load`."""
        self._accounts = accounts
        self._secret = secret
        self._passwords = hasher
        self._clock_ms, self._steady_ms = clocks
        self._hashes: dict[int, str] = {}
        self._sessions: dict[str, Session] = {}
        self._by_user: dict[int, dict[str, None]] = {}
        self._links: dict[str, SignInLink] = {}
        self._by_email = Attempts(EMAIL_ATTEMPTS_MAX, WINDOW_MS)
        self._by_address = Attempts(ADDRESS_ATTEMPTS_MAX, WINDOW_MS)
        self._changes = Attempts(EMAIL_ATTEMPTS_MAX, WINDOW_MS)
        self._sign_ups = Attempts(SIGN_UPS_MAX, SIGN_UP_WINDOW_MS)

    @classmethod
    async def load(
        cls,
        ledger: Ledger,
        accounts: Accounts,
        secret: bytes,
        *,
        hasher: Passwords | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        steady_ms: Callable[[], int] = monotonic_ms,
    ) -> "SignIn":
        """Read the store; what expired while nobody looked is forgotten. Raises `StoreError`.

        `secret` is the server's. `clock_ms` is for what expires, `steady_ms` for attempts.
        """
        made = cls(accounts, secret, hasher or Passwords(), (clock_ms, steady_ms))
        now_ms = clock_ms()
        made._hashes = await ledger.read(sign_in.passwords)
        for session in await ledger.read(lambda conn: sign_in.live_sessions(conn, now_ms)):
            made._put(session)
        for link in await ledger.read(lambda conn: sign_in.live_links(conn, now_ms)):
            made._links[link.id] = link
        await ledger.execute(lambda conn: sign_in.end_expired(conn, now_ms))
        return made

    # --- sessions

    def session(self, token: str) -> Session | None:
        """Whose token that is; None where it is nobody's, or no more. No I/O."""
        found = self._sessions.get(self._id(_SESSION, token))
        if found is None or found.expires_ms <= self._clock_ms():
            return None
        return found

    def sessions(self, user_id: int) -> list[Session]:
        """Where a user is signed in at the moment, the oldest first."""
        now_ms = self._clock_ms()
        found = (self._sessions[one] for one in self._by_user.get(user_id, ()))
        return [one for one in found if one.expires_ms > now_ms]

    async def sign_in(self, email: str, password: str, address: str, *, lifetime_ms: int) -> str:
        """Check a password and begin a session: its token, the only time that it exists.

        `address` is the client's. A suspended user may sign in. Raises `SignInRefused`: the same
        for an unknown e-mail, a user without a password and a wrong one.
        """
        email = email.strip()
        begun_ms = self._begin_attempt(email, address)
        known = self._accounts.users_with_email(email)
        held = [(user, self._hashes[user.id]) for user in known if user.id in self._hashes]
        try:
            fit = await self._passwords.find([hashed for _, hashed in held], password)
        except PasswordsBusy:
            # Nothing was learnt, so nothing counts.
            self._by_email.give_back(email_form(email), begun_ms)
            self._by_address.give_back(address_form(address), begun_ms)
            raise SignInRefused(_BUSY, _BUSY_RETRY_S) from None
        if fit is None:
            # Not what was typed: people type passwords into the field above.
            _log.info("a sign-in from %s failed", address_form(address))
            raise SignInRefused(_WRONG)
        self._by_email.clear(email_form(email))
        self._by_address.give_back(address_form(address), begun_ms)
        user, hashed = held[fit.place]

        def begin(conn: sqlite3.Connection) -> _Begun:
            try:
                # Changed while it was checked: then its sessions ended, and this one is of those.
                sign_in.check_password(conn, user.id, hashed)
            except Conflict:
                raise SignInRefused(_WRONG) from None
            if fit.keep != hashed:
                sign_in.rehash_password(conn, user.id, fit.keep)
            return _Begun(user.id)

        token = await self._open(begin, fit.keep, lifetime_ms)
        _log.info("%s signed in from %s", user.name, address_form(address))
        return token

    async def sign_out(self, token: str) -> None:
        """End a session, if it is one: at once, whether the store can be written or not.

        Raises `StoreError` where it cannot: the session would be back after a restart.
        """
        session = self._sessions.get(self._id(_SESSION, token))
        if session is not None:
            self._drop([session.id])
            await self._accounts.commit(
                lambda conn: sign_in.end_session(conn, session.id), lambda _: None
            )

    async def end_sessions(self, user_id: int, *, keep: str | None = None) -> int:
        """End a user's sessions, save that of the token `keep`: how many ended."""
        kept = None if keep is None else self._id(_SESSION, keep)
        ended = await self._accounts.commit(
            lambda conn: sign_in.end_sessions(conn, user_id, kept), self._drop
        )
        return len(ended)

    # --- passwords and links

    async def set_password(
        self, user_id: int, new: str, *, current: str | None, keep: str | None
    ) -> None:
        """Change a password; all the user's sessions end, save that of the token `keep`.

        Where there is a password, `current` must be it. Raises `Conflict`, whose message opens
        with `password` or `current_password`; `SignInRefused` after too many attempts.
        """
        user = self._accounts.user(user_id)
        passwords.check_rules(new, user.email, user.name)
        before = self._hashes.get(user_id)
        if before is not None:
            await self._check_current(user_id, before, current)
        hashed = await self._hash(new)
        kept = None if keep is None else self._id(_SESSION, keep)
        now_ms = self._clock_ms()

        def change(conn: sqlite3.Connection) -> list[str]:
            sign_in.check_password(conn, user_id, before)
            return _replace_password(conn, user_id, hashed, now_ms, kept)

        def apply(ended: list[str]) -> None:
            self._drop(ended)
            self._new_password(user_id, hashed)

        await self._accounts.commit(change, apply)
        _log.info("%s changed their password", user.name)

    async def check_password(self, user_id: int, password: str) -> None:
        """Make sure that it is the user's password: for what is not to be done without it.

        Raises `Conflict`, whose message opens with `current_password`; `SignInRefused` after too
        many attempts.
        """
        known = self._hashes.get(user_id)
        if known is None:
            raise Conflict("current_password: there is none; ask for a one-time link")
        await self._check_current(user_id, known, password)

    async def make_link(self, user_name: str) -> tuple[str, int]:
        """A token that sets a user's password, once, and when it expires, in milliseconds.

        An older one of that user is void. Raises `Missing`.
        """
        user = self._accounts.user_named(user_name)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        now_ms = self._clock_ms()
        link = SignInLink(self._id(_LINK, token), user.id, now_ms, now_ms + LINK_MS)

        def apply(_: None) -> None:
            self._void_links(user.id)
            self._links = {one.id: one for one in self._links.values() if one.expires_ms > now_ms}
            self._links[link.id] = link

        await self._accounts.commit(lambda conn: sign_in.add_link(conn, link), apply)
        return token, link.expires_ms

    async def use_link(
        self, token: str, new_password: str, email: str | None, address: str, *, lifetime_ms: int
    ) -> str:
        """Set the password of a link's user and begin a session: its token.

        `email` is for a user who has none; for one who has, it must be that. All the user's
        sessions end. Raises `SignInRefused` for a link that is used, expired or unknown; `Conflict`
        (`email`, `password`) leaves the link as it was.
        """
        begun_ms = self._begin_attempt(None, address)
        link = self._links.get(self._id(_LINK, token))
        if link is None or link.expires_ms <= self._clock_ms():
            raise SignInRefused(_DEAD_LINK)
        self._by_address.give_back(address_form(address), begun_ms)
        user = self._accounts.user(link.user_id)
        own_email = self._email_of(user, (email or "").strip())
        passwords.check_rules(new_password, own_email, user.name)
        hashed = await self._hash(new_password)
        now_ms = self._clock_ms()

        def begin(conn: sqlite3.Connection) -> _Begun:
            try:
                sign_in.use_link(conn, link.id, now_ms)
            except Conflict:
                raise SignInRefused(_DEAD_LINK) from None
            changed = store.update_user(conn, user.name, email=own_email)
            ended = _replace_password(conn, user.id, hashed, now_ms, None)
            return _Begun(user.id, changed, ended)

        opened = await self._open(begin, hashed, lifetime_ms)
        _log.info("%s used a one-time link from %s", user.name, address_form(address))
        return opened

    async def sign_up(
        self, email: str, password: str, name: str, address: str, *, lifetime_ms: int
    ) -> str:
        """Make an ordinary user, without credit, and begin a session: its token.

        Whether anybody may is for the caller to know (`[dashboard] signup`). Raises `Conflict`
        (`email`, `name`, `password`), `SignInRefused` after too many from one address.
        """
        email = email.strip()
        changes.check_email(email)
        name = changes.checked_name(name)
        passwords.check_rules(password, email, name)
        where = address_form(address)
        self._refuse_early([(self._sign_ups, where)])
        # What is taken is learnt by trying: that counts as a failed attempt.
        begun_ms = self._begin_attempt(None, address)
        if self._accounts.users_with_email(email):
            raise Conflict("email: another user has it")
        if self._accounts.has_user(name):
            raise Conflict("name: another user has it")
        self._by_address.give_back(where, begun_ms)
        self._sign_ups.take(where, begun_ms)
        try:
            hashed = await self._hash(password)
            now_ms = self._clock_ms()

            def begin(conn: sqlite3.Connection) -> _Begun:
                user = store.create_user(
                    conn, name=name, email=email, admin=False, created_ms=now_ms
                )
                sign_in.put_password(conn, user.id, hashed, now_ms)
                return _Begun(user.id, user)

            token = await self._open(begin, hashed, lifetime_ms)
        except Exception:
            # Not where the client only left: the user may be made all the same.
            self._sign_ups.give_back(where, begun_ms)
            raise
        _log.info("%s signed up from %s", name, where)
        return token

    # --- the parts of these

    async def _open(
        self, begin: Callable[[sqlite3.Connection], _Begun], hashed: str, lifetime_ms: int
    ) -> str:
        """Do what `begin` does and add a session for its user, in one transaction: the token."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session_id, now_ms = self._id(_SESSION, token), self._clock_ms()

        def change(conn: sqlite3.Connection) -> tuple[_Begun, Session, list[str]]:
            begun = begin(conn)
            session = Session(session_id, begun.user_id, now_ms, now_ms + lifetime_ms)
            ended = sign_in.add_session(conn, session, SESSIONS_MAX)
            return begun, session, [*begun.ended, *ended]

        def apply(done: tuple[_Begun, Session, list[str]]) -> None:
            begun, session, ended = done
            if begun.user is not None:
                self._accounts.put_user(begun.user)
                self._void_links(begun.user_id)
            self._hashes[begun.user_id] = hashed
            self._drop(ended)
            self._put(session)

        await self._accounts.commit(change, apply)
        return token

    async def _hash(self, password: str) -> str:
        try:
            return await self._passwords.hash(password)
        except PasswordsBusy:
            raise SignInRefused(_BUSY, _BUSY_RETRY_S) from None

    async def _check_current(self, user_id: int, hashed: str, current: str | None) -> None:
        """Counted by itself: strangers who lock an e-mail do not lock out who is signed in."""
        if not current:
            raise Conflict("current_password: is required")
        key, begun_ms = str(user_id), self._steady_ms()
        self._refuse_early([(self._changes, key)])
        self._changes.take(key, begun_ms)
        try:
            fit = await self._passwords.find([hashed], current)
        except PasswordsBusy:
            self._changes.give_back(key, begun_ms)
            raise SignInRefused(_BUSY, _BUSY_RETRY_S) from None
        if fit is None:
            raise Conflict("current_password: is not right")
        self._changes.clear(key)

    def _email_of(self, user: User, email: str) -> str:
        """What a user will sign in with; `Conflict` where that is not to be had."""
        if user.email is not None:
            if email and email_form(email) != email_form(user.email):
                raise Conflict("email: is not the one of this user; leave it out, or give that one")
            return user.email
        if not email:
            raise Conflict("email: is required, to sign in with from now on")
        changes.check_email(email)
        if self._accounts.users_with_email(email):
            raise Conflict("email: another user has it")
        return email

    def _begin_attempt(self, email: str | None, address: str) -> int:
        """Count an attempt, or refuse it; when it was, by the steady clock."""
        asked = [(self._by_address, address_form(address))]
        if email is not None:
            asked.append((self._by_email, email_form(email)))
        now_ms = self._steady_ms()
        self._refuse_early(asked)
        for limiter, key in asked:
            limiter.take(key, now_ms)
        return now_ms

    def _refuse_early(self, asked: Iterable[tuple[Attempts, str]]) -> None:
        now_ms = self._steady_ms()
        wait_s = -(-max(limiter.wait_ms(key, now_ms) for limiter, key in asked) // 1000)
        if wait_s:
            span = f"{wait_s} seconds" if wait_s < 120 else f"{-(-wait_s // 60)} minutes"
            raise SignInRefused(f"Too many attempts: try again in {span}", wait_s)

    def _id(self, kind: bytes, token: str) -> str:
        typed = token.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(typed, digest_size=32, key=self._secret, person=kind).hexdigest()

    # --- the snapshot

    def _put(self, session: Session) -> None:
        self._sessions[session.id] = session
        self._by_user.setdefault(session.user_id, {})[session.id] = None

    def _drop(self, ended: Iterable[str]) -> None:
        for session_id in ended:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                theirs = self._by_user[session.user_id]
                del theirs[session_id]
                if not theirs:
                    del self._by_user[session.user_id]

    def _new_password(self, user_id: int, hashed: str) -> None:
        self._hashes[user_id] = hashed
        self._void_links(user_id)

    def _void_links(self, user_id: int) -> None:
        for link_id in [one.id for one in self._links.values() if one.user_id == user_id]:
            del self._links[link_id]


def _replace_password(
    conn: sqlite3.Connection, user_id: int, hashed: str, now_ms: int, keep: str | None
) -> list[str]:
    """Set a password, void the links to set another, and end the sessions that began with the old.

    The ids of those.
    """
    sign_in.put_password(conn, user_id, hashed, now_ms)
    sign_in.end_links(conn, user_id)
    return sign_in.end_sessions(conn, user_id, keep)
