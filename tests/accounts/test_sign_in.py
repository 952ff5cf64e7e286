"""Signing in and out, links and passwords: what is promised, and what an attacker gets."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import pytest
from accounts_site import PREFIX, SECRET, Clock, opened
from argon2 import PasswordHasher

from gateway.accounts import sign_in as rules
from gateway.accounts.accounts import Accounts
from gateway.accounts.changes import UserChanges
from gateway.accounts.passwords import THREADS, WAITING_MAX, Passwords
from gateway.accounts.sign_in import SignIn, SignInRefused
from gateway.errors import Conflict, Missing
from gateway.ledger import sign_in as rows
from gateway.ledger.writer import Ledger

GOOD = "correct horse battery"
OTHER = "another good password"
HERE, THERE = "192.0.2.1", "192.0.2.2"
LIFETIME_MS = 3_600_000


class Gate(PasswordHasher):
    """A hasher that costs nothing, and holds its threads where told to."""

    def __init__(self, memory_cost: int = 8) -> None:
        super().__init__(time_cost=1, memory_cost=memory_cost, parallelism=1)
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.checks = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.checks += 1
        self.begun.release()
        assert self.go.wait(10)
        return super().verify(hash, password)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.begun.release()
        assert self.go.wait(10)
        return super().hash(password, salt=salt)

    def hold(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go.clear()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


class Site:
    """A store with people in it; what signs them in."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.steady = Clock()
        self.hasher = Gate()

    async def load(self) -> "Site":
        self.accounts = await Accounts.load(self.ledger, SECRET, PREFIX, clock_ms=self.clock)
        self.sign_in = await SignIn.load(
            self.ledger, self.accounts, SECRET,
            hasher=Passwords(self.hasher), clock_ms=self.clock, steady_ms=self.steady,
        )  # fmt: skip
        return self

    async def again(self) -> "Site":
        """The same store, read by a process that knows nothing yet."""
        return await Site(self.ledger, self.clock).load()

    async def person(self, name: str, email: str | None = None, password: str | None = GOOD) -> int:
        user = await self.accounts.create_user(name, email=email or f"{name}@example.org")
        if password is not None:
            await self.sign_in.set_password(user.id, password, current=None, keep=None)
        return user.id

    async def enter(self, email: str, password: str = GOOD, address: str = HERE) -> str:
        return await self.sign_in.sign_in(email, password, address, lifetime_ms=LIFETIME_MS)

    async def refused(
        self, email: str, password: str = "wrong", address: str = HERE
    ) -> SignInRefused:
        with pytest.raises(SignInRefused) as caught:
            await self.enter(email, password, address)
        return caught.value

    async def use(
        self, link: str, password: str = GOOD, email: str | None = None, address: str = HERE
    ) -> str:
        return await self.sign_in.use_link(link, password, email, address, lifetime_ms=LIFETIME_MS)

    async def join(self, name: str, address: str = HERE, email: str | None = None) -> str:
        return await self.sign_in.sign_up(
            email or f"{name}@example.org", GOOD, name, address, lifetime_ms=LIFETIME_MS
        )

    def who(self, token: str) -> int | None:
        session = self.sign_in.session(token)
        return None if session is None else session.user_id


@pytest.fixture
async def site(tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    ledger = await opened(tmp_path / "gateway.db")
    yield await Site(ledger, clock).load()
    await ledger.close()


# --- signing in and out -----------------------------------------------------------------------


async def test_the_right_password_begins_a_session_that_outlives_the_process(site: Site) -> None:
    ann = await site.person("ann")
    token = await site.enter(" Ann@EXAMPLE.org ")
    session = site.sign_in.session(token)
    assert session is not None
    assert (session.user_id, session.created_ms) == (ann, site.clock.now_ms)
    assert session.expires_ms == site.clock.now_ms + LIFETIME_MS
    assert (await site.again()).sign_in.session(token) == session
    assert token not in session.id


async def test_no_two_sessions_have_one_token_and_no_guess_is_one(site: Site) -> None:
    await site.person("ann")
    tokens = {await site.enter("ann@example.org") for _ in range(20)}
    assert len(tokens) == 20
    assert all(len(token) == 43 for token in tokens)
    token = tokens.pop()
    session = site.sign_in.session(token)
    assert session is not None
    for guess in ("", token[:-1], token + "A", token.swapcase(), session.id, "\ud800", "x" * 9999):
        assert site.sign_in.session(guess) is None


async def test_unknown_e_mail_no_password_and_a_wrong_one_are_told_the_same_way(
    site: Site,
) -> None:
    await site.person("ann")
    await site.person("bob", password=None)
    told = {
        (refusal.message, refusal.retry_after_s)
        for email in ("ann@example.org", "bob@example.org", "nobody@example.org", "", "\ud800")
        for refusal in (await site.refused(email),)
    }
    assert told == {("The e-mail address or the password is wrong", None)}
    # And each cost one check: neither does the time tell.
    assert site.hasher.checks == 5


async def test_a_session_ends_on_time_and_is_forgotten(site: Site) -> None:
    ann = await site.person("ann")
    token = await site.enter("ann@example.org")
    site.clock.now_ms += LIFETIME_MS - 1
    assert site.who(token) == ann
    site.clock.now_ms += 1
    assert site.who(token) is None
    assert site.sign_in.sessions(ann) == []
    await site.enter("ann@example.org")
    assert len(await site.ledger.read(lambda conn: rows.live_sessions(conn, 0))) == 1
    assert len(site.sign_in._sessions) == 1
    site.clock.now_ms += LIFETIME_MS
    again = await site.again()
    assert again.sign_in._sessions == {}
    assert await site.ledger.read(lambda conn: rows.live_sessions(conn, 0)) == []


async def test_signing_out_ends_that_session_alone_and_for_good(site: Site) -> None:
    ann = await site.person("ann")
    first, second = await site.enter("ann@example.org"), await site.enter("ann@example.org")
    await site.sign_in.sign_out(first)
    await site.sign_in.sign_out(first)
    await site.sign_in.sign_out("no token")
    for one in (site, await site.again()):
        assert one.who(first) is None
        assert one.who(second) == ann


async def test_all_sessions_of_a_user_end_save_the_one_that_asks(site: Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob")
    mine = [await site.enter("ann@example.org") for _ in range(4)]
    theirs = await site.enter("bob@example.org")
    assert await site.sign_in.end_sessions(ann, keep=mine[2]) == 3
    assert [site.who(token) for token in mine] == [None, None, ann, None]
    assert await site.sign_in.end_sessions(ann) == 1
    assert site.who(theirs) == bob
    assert (await site.again()).who(mine[2]) is None


async def test_with_one_session_too_many_the_oldest_ends(site: Site) -> None:
    ann = await site.person("ann")
    tokens = [await site.enter("ann@example.org") for _ in range(rules.SESSIONS_MAX + 2)]
    assert [site.who(token) for token in tokens[:3]] == [None, None, ann]
    assert len(site.sign_in.sessions(ann)) == rules.SESSIONS_MAX
    assert (await site.again()).sign_in.sessions(ann) == site.sign_in.sessions(ann)


async def test_a_suspended_user_may_sign_in_and_stays_signed_in(site: Site) -> None:
    ann = await site.person("ann")
    token = await site.enter("ann@example.org")
    await site.accounts.suspend_user("ann")
    assert site.who(token) == ann
    assert site.who(await site.enter("ann@example.org")) == ann
    # Signing in is no news about the user: what was done to them meanwhile stays.
    assert site.accounts.user(ann).suspended_ms is not None


async def test_where_an_older_store_has_an_address_twice_the_password_decides(
    site: Site,
) -> None:
    ann, bob = await site.person("ann"), await site.person("bob", password=OTHER)
    nobody = await site.accounts.create_user("third", email="third@example.org")

    def share(conn: object) -> None:
        conn.execute(  # type: ignore[attr-defined]
            "UPDATE users SET email = 'Team@example.org', email_form = 'team@example.org'"
        )

    await site.ledger.execute(share)
    again = await site.again()
    assert len(again.accounts.users_with_email("TEAM@example.org")) == 3
    assert again.who(await again.enter("team@example.org", GOOD)) == ann
    assert again.who(await again.enter("team@example.org", OTHER)) == bob
    await again.refused("team@example.org")
    # One of them moves away, and the address is still the others'.
    await again.accounts.update_user("ann", UserChanges(email="ann@example.org"))
    assert again.who(await again.enter("ann@example.org")) == ann
    await again.refused("team@example.org", GOOD)
    assert nobody.id in [user.id for user in again.accounts.users_with_email("team@example.org")]


async def test_a_changed_e_mail_is_what_signs_in_from_then_on(site: Site) -> None:
    ann = await site.person("ann")
    await site.accounts.update_user("ann", UserChanges(email="new@example.org"))
    await site.refused("ann@example.org", GOOD)
    assert site.who(await site.enter("NEW@example.org")) == ann
    await site.accounts.update_user("ann", UserChanges(email=None))
    await site.refused("new@example.org", GOOD)


async def test_a_hash_of_older_parameters_is_replaced_by_a_sign_in(site: Site) -> None:
    ann = await site.person("ann")
    newer = Site(site.ledger, site.clock)
    newer.hasher = Gate(memory_cost=16)
    await newer.load()
    assert newer.who(await newer.enter("ann@example.org")) == ann
    kept = await site.ledger.read(rows.passwords)
    assert "m=16," in kept[ann]
    assert newer.who(await newer.enter("ann@example.org")) == ann
    assert await site.ledger.read(rows.passwords) == kept


# --- attempts ---------------------------------------------------------------------------------


async def test_one_e_mail_is_tried_so_often_and_told_when_it_may_be_again(site: Site) -> None:
    ann = await site.person("ann")
    for number in range(rules.EMAIL_ATTEMPTS_MAX):
        assert (await site.refused("ann@example.org", address=f"10.0.{number}.1")).message
        site.steady.now_ms += 1000
    checks = site.hasher.checks
    # From anywhere, in any spelling, with the right password too; and nothing is checked.
    for email in ("ann@example.org", "ANN@example.org "):
        refusal = await site.refused(email, GOOD, THERE)
        assert refusal.retry_after_s == rules.WINDOW_MS // 1000 - rules.EMAIL_ATTEMPTS_MAX
        assert "15 minutes" in refusal.message
    assert site.hasher.checks == checks
    site.steady.now_ms += refusal.retry_after_s * 1000 - 1  # type: ignore[operator]
    assert (await site.refused("ann@example.org", GOOD)).retry_after_s == 1
    site.steady.now_ms += 1
    assert site.who(await site.enter("ann@example.org")) == ann


async def test_an_unknown_e_mail_is_limited_like_a_known_one(site: Site) -> None:
    await site.person("ann")
    told = []
    for email in ("ann@example.org", "nobody@example.org"):
        for number in range(rules.EMAIL_ATTEMPTS_MAX):
            await site.refused(email, address=f"10.0.{number}.1")
        refusal = await site.refused(email)
        told.append((refusal.message, refusal.retry_after_s))
    assert told[0] == told[1]


async def test_one_address_tries_so_many_e_mails_and_a_whole_prefix_is_one_address(
    site: Site,
) -> None:
    await site.person("ann")
    for number in range(rules.ADDRESS_ATTEMPTS_MAX):
        await site.refused(f"{number}@example.org", address=f"2001:db8:0:1::{number:x}")
    refusal = await site.refused("ann@example.org", GOOD, "2001:db8:0:1:ffff::1")
    assert refusal.retry_after_s == rules.WINDOW_MS // 1000
    await site.enter("ann@example.org", GOOD, "2001:db8:0:2::1")


async def test_a_success_clears_the_e_mail_and_not_the_address(site: Site) -> None:
    await site.person("ann")
    for _ in range(3):
        for _ in range(rules.EMAIL_ATTEMPTS_MAX - 1):
            await site.refused("ann@example.org")
        await site.enter("ann@example.org")
    await site.refused("ann@example.org")
    await site.enter("ann@example.org")
    await site.refused("bob@example.org")
    await site.refused("bob@example.org")
    assert (await site.refused("ann@example.org", GOOD)).retry_after_s
    await site.enter("ann@example.org", GOOD, THERE)


async def test_attempts_count_while_they_are_in_flight_and_when_their_client_leaves(
    site: Site,
) -> None:
    await site.person("ann")
    site.hasher.hold()
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(site.enter("ann@example.org", "wrong"))
        for _ in range(rules.EMAIL_ATTEMPTS_MAX)
    ]
    await site.hasher.reached()
    assert (await site.refused("ann@example.org", GOOD)).retry_after_s
    for task in tasks:
        task.cancel()
    site.hasher.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await site.refused("ann@example.org", GOOD)).retry_after_s


async def test_too_many_at_once_are_refused_and_it_counts_for_nobody(site: Site) -> None:
    await site.person("ann")
    site.hasher.hold()
    loop = asyncio.get_running_loop()
    room = THREADS + WAITING_MAX
    tasks = [loop.create_task(site.enter(f"{n}@example.org", "wrong")) for n in range(room)]
    await site.hasher.reached()
    for _ in range(rules.ADDRESS_ATTEMPTS_MAX + 1):
        refusal = await site.refused("ann@example.org", GOOD)
        assert refusal.retry_after_s == 2
        assert "at this moment" in refusal.message
    site.hasher.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await site.enter("ann@example.org")


# --- passwords --------------------------------------------------------------------------------


async def test_a_new_password_wants_the_old_one_and_ends_all_other_sessions(site: Site) -> None:
    ann = await site.person("ann")
    mine, other = await site.enter("ann@example.org"), await site.enter("ann@example.org")
    link, _ = await site.sign_in.make_link("ann")
    for current, told in ((None, "is required"), ("", "is required"), (OTHER, "is not right")):
        with pytest.raises(Conflict, match=rf"^current_password: {told}"):
            await site.sign_in.set_password(ann, OTHER, current=current, keep=mine)
    with pytest.raises(Conflict, match=r"^password: "):
        await site.sign_in.set_password(ann, "short", current=GOOD, keep=mine)
    assert site.who(other) == ann
    await site.sign_in.set_password(ann, OTHER, current=GOOD, keep=mine)
    for one in (site, await site.again()):
        assert one.who(mine) == ann
        assert one.who(other) is None
        await one.refused("ann@example.org", GOOD)
        assert one.who(await one.enter("ann@example.org", OTHER)) == ann
        # Who sent for a link before is not to undo it.
        with pytest.raises(SignInRefused):
            await one.use(link, GOOD)


async def test_the_old_password_cannot_be_guessed_from_a_stolen_session(site: Site) -> None:
    ann = await site.person("ann")
    token = await site.enter("ann@example.org")
    for _ in range(rules.EMAIL_ATTEMPTS_MAX):
        with pytest.raises(Conflict, match=r"^current_password: "):
            await site.sign_in.set_password(ann, OTHER, current="a guess", keep=token)
    with pytest.raises(SignInRefused) as caught:
        await site.sign_in.set_password(ann, OTHER, current=GOOD, keep=token)
    assert caught.value.retry_after_s == rules.WINDOW_MS // 1000
    # Strangers lock the e-mail by trying; this is not that, and not the other way around.
    await site.enter("ann@example.org", GOOD)
    site.steady.now_ms += rules.WINDOW_MS
    await site.sign_in.set_password(ann, OTHER, current=GOOD, keep=token)


async def test_a_password_is_asked_for_again_as_often_as_it_may_be_changed(site: Site) -> None:
    ann = await site.person("ann")
    await site.sign_in.check_password(ann, GOOD)
    for guess in ["", *["a guess"] * rules.EMAIL_ATTEMPTS_MAX]:
        with pytest.raises(Conflict, match=r"^current_password: "):
            await site.sign_in.check_password(ann, guess)
    with pytest.raises(SignInRefused) as refused:
        await site.sign_in.check_password(ann, GOOD)
    assert refused.value.retry_after_s
    bob = await site.person("bob", password=None)
    with pytest.raises(Conflict, match="one-time link"):
        await site.sign_in.check_password(bob, GOOD)


async def test_what_wants_the_password_again_is_limited_like_changing_it(site: Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob", password=None)
    await site.sign_in.check_password(ann, GOOD)
    for user_id, typed in ((ann, OTHER), (ann, ""), (bob, GOOD)):
        with pytest.raises(Conflict, match=r"^current_password: "):
            await site.sign_in.check_password(user_id, typed)
    for _ in range(rules.EMAIL_ATTEMPTS_MAX - 1):
        with pytest.raises(Conflict, match="is not right"):
            await site.sign_in.check_password(ann, OTHER)
    with pytest.raises(SignInRefused):
        await site.sign_in.check_password(ann, GOOD)
    with pytest.raises(SignInRefused):
        await site.sign_in.set_password(ann, OTHER, current=GOOD, keep=None)


async def test_a_sign_in_with_a_password_that_changes_meanwhile_begins_nothing(
    site: Site,
) -> None:
    ann = await site.person("ann")
    site.hasher.hold()
    entering = asyncio.get_running_loop().create_task(site.enter("ann@example.org", GOOD))
    await site.hasher.reached()
    other = await Passwords(Gate()).hash(OTHER)
    await site.ledger.execute(lambda conn: rows.put_password(conn, ann, other, 5))
    site.hasher.go.set()
    with pytest.raises(SignInRefused) as caught:
        await entering
    assert caught.value.retry_after_s is None
    assert site.sign_in.sessions(ann) == []
    assert await site.ledger.read(rows.passwords) == {ann: other}


async def test_of_two_changes_at_once_one_wins_and_the_other_is_told(site: Site) -> None:
    ann = await site.person("ann")
    done = await asyncio.gather(
        *(
            site.sign_in.set_password(ann, f"{OTHER} {number}", current=GOOD, keep=None)
            for number in range(2)
        ),
        return_exceptions=True,
    )
    lost = [one for one in done if one is not None]
    assert len(lost) == 1
    assert str(lost[0]).startswith("current_password: ")
    winner = done.index(None)
    assert site.who(await site.enter("ann@example.org", f"{OTHER} {winner}")) == ann


# --- one-time links ---------------------------------------------------------------------------


async def test_a_link_sets_password_and_e_mail_once_and_signs_in(site: Site) -> None:
    user = await site.accounts.create_user("root", admin=True)
    link, expires_ms = await site.sign_in.make_link("root")
    assert expires_ms == site.clock.now_ms + rules.LINK_MS
    with pytest.raises(Conflict, match=r"^email: "):
        await site.use(link)
    with pytest.raises(Conflict, match=r"^email: "):
        await site.use(link, email="not an address")
    with pytest.raises(Conflict, match=r"^password: "):
        await site.use(link, "root@example.org", email="ROOT@example.org")
    token = await site.use(link, email=" Root@example.org ")
    for one in (site, await site.again()):
        assert one.who(token) == user.id
        assert one.accounts.user(user.id).email == "Root@example.org"
        assert one.accounts.user(user.id).admin
        assert one.who(await one.enter("root@example.org")) == user.id
        assert one.sign_in._links == {}
        with pytest.raises(SignInRefused, match="used before") as caught:
            await one.use(link, OTHER, "root@example.org")
        assert caught.value.retry_after_s is None


async def test_used_expired_void_and_unknown_links_are_told_the_same_way(site: Site) -> None:
    for name in ("used", "expired", "void"):
        await site.person(name)
    used, _ = await site.sign_in.make_link("used")
    await site.use(used)
    void, _ = await site.sign_in.make_link("void")
    await site.sign_in.make_link("void")
    expired, expires_ms = await site.sign_in.make_link("expired")
    session = await site.enter("used@example.org")
    site.clock.now_ms = expires_ms
    told = set()
    for link in (used, void, expired, session, "", "\ud800", "x" * 43):
        with pytest.raises(SignInRefused) as caught:
            await site.use(link)
        told.add((caught.value.message, caught.value.retry_after_s))
    assert len(told) == 1


async def test_a_link_is_no_session_and_a_session_is_no_link(site: Site) -> None:
    await site.person("ann")
    link, _ = await site.sign_in.make_link("ann")
    assert site.sign_in.session(link) is None
    session = await site.enter("ann@example.org")
    with pytest.raises(SignInRefused):
        await site.use(session)
    await site.use(link)


async def test_a_link_for_a_user_with_an_e_mail_keeps_it_and_ends_what_was_begun(
    site: Site,
) -> None:
    ann = await site.person("ann")
    before = await site.enter("ann@example.org")
    link, _ = await site.sign_in.make_link("ann")
    with pytest.raises(Conflict, match=r"^email: "):
        await site.use(link, OTHER, "other@example.org")
    after = await site.use(link, OTHER, "ANN@example.org")
    assert (site.who(before), site.who(after)) == (None, ann)
    assert site.accounts.user(ann).email == "ann@example.org"
    await site.refused("ann@example.org", GOOD)


async def test_a_link_gives_nobody_the_e_mail_of_somebody_else(site: Site) -> None:
    await site.person("ann")
    await site.accounts.create_user("eve")
    link, _ = await site.sign_in.make_link("eve")
    with pytest.raises(Conflict, match=r"^email: "):
        await site.use(link, email="ANN@example.org")
    assert site.accounts.user_named("eve").email is None


@pytest.mark.parametrize("number", [2, 10])
async def test_of_many_uses_of_a_link_at_once_one_wins(site: Site, number: int) -> None:
    user = await site.accounts.create_user("ann")
    link, _ = await site.sign_in.make_link("ann")
    done = await asyncio.gather(
        *(site.use(link, f"{GOOD} {one}", f"ann{one}@example.org") for one in range(number)),
        return_exceptions=True,
    )
    tokens = [one for one in done if isinstance(one, str)]
    assert len(tokens) == 1
    assert all(isinstance(one, SignInRefused | str) for one in done)
    winner = done.index(tokens[0])
    assert [one.user_id for one in site.sign_in.sessions(user.id)] == [user.id]
    assert site.who(await site.enter(f"ann{winner}@example.org", f"{GOOD} {winner}")) == user.id


async def test_guesses_at_links_are_limited_by_address_and_good_links_are_not_counted(
    site: Site,
) -> None:
    for number in range(rules.ADDRESS_ATTEMPTS_MAX + 2):
        await site.person(f"u{number}", password=None)
        await site.use((await site.sign_in.make_link(f"u{number}"))[0])
    for _ in range(rules.ADDRESS_ATTEMPTS_MAX):
        with pytest.raises(SignInRefused):
            await site.use("guess")
    with pytest.raises(SignInRefused) as caught:
        await site.use((await site.sign_in.make_link("u0"))[0])
    assert caught.value.retry_after_s == rules.WINDOW_MS // 1000


async def test_there_is_no_link_for_nobody(site: Site) -> None:
    with pytest.raises(Missing):
        await site.sign_in.make_link("nobody")


# --- signing up -------------------------------------------------------------------------------


async def test_who_signs_up_is_an_ordinary_user_without_credit(site: Site) -> None:
    token = await site.join("new")
    user = site.accounts.user_named("new")
    assert (user.email, user.admin) == ("new@example.org", False)
    assert site.accounts.funds(user.id).balance == 0
    assert site.who(token) == user.id
    again = await site.again()
    assert again.who(await again.enter("new@example.org")) == user.id
    assert again.who(token) == user.id


async def test_a_taken_name_or_address_is_refused_and_makes_nothing(site: Site) -> None:
    await site.person("ann")
    for name, email, field in (
        ("bob", "ANN@example.org", "email"), ("ann", "bob@example.org", "name"),
        ("bob", "bob", "email"), (" bob", "bob@example.org", "name"),
        (GOOD, "bob@example.org", "password"),
    ):  # fmt: skip
        with pytest.raises(Conflict, match=rf"^{field}: "):
            await site.join(name, email=email)
    assert [user.name for user in site.accounts.list_users()] == ["ann"]


async def test_so_many_may_sign_up_from_an_address_within_an_hour(site: Site) -> None:
    for number in range(rules.SIGN_UPS_MAX):
        await site.join(f"u{number}")
    with pytest.raises(SignInRefused) as caught:
        await site.join("more")
    assert caught.value.retry_after_s == 3600
    assert "60 minutes" in caught.value.message
    await site.join("more", THERE)
    site.steady.now_ms += rules.SIGN_UP_WINDOW_MS
    await site.join("later")


async def test_signing_up_to_find_out_whose_addresses_are_known_is_limited(site: Site) -> None:
    await site.person("ann")
    for _ in range(rules.ADDRESS_ATTEMPTS_MAX):
        with pytest.raises(Conflict, match=r"^email: "):
            await site.join("eve", email="ann@example.org")
    with pytest.raises(SignInRefused) as caught:
        await site.join("eve", email="ann@example.org")
    assert caught.value.retry_after_s == rules.WINDOW_MS // 1000


async def test_of_two_who_sign_up_with_one_address_at_once_one_wins(site: Site) -> None:
    done = await asyncio.gather(
        site.join("one", email="x@example.org"), site.join("two", email="X@example.org"),
        return_exceptions=True,
    )  # fmt: skip
    assert sorted(type(one).__name__ for one in done) == ["Conflict", "str"]
    assert len(site.accounts.list_users()) == 1


async def test_who_hangs_up_while_signing_up_is_counted_all_the_same(site: Site) -> None:
    loop = asyncio.get_running_loop()
    for number in range(rules.SIGN_UPS_MAX):
        site.hasher.hold()
        task = loop.create_task(site.join(f"u{number}"))
        await site.hasher.reached()
        task.cancel()
        site.hasher.go.set()
        await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(SignInRefused):
        await site.join("more")


# --- secrets ----------------------------------------------------------------------------------


def all_files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir() if path.is_file())


async def test_no_password_and_no_token_is_in_the_store_the_log_or_a_message(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    typed = "typed into the wrong field"
    await site.accounts.create_user("ann")
    link, _ = await site.sign_in.make_link("ann")
    secrets = [link, GOOD, OTHER, typed, "guess-guess"]
    said: list[str] = []

    async def tried(call: Callable[[], object]) -> None:
        try:
            await call()  # type: ignore[misc]
        except (Conflict, SignInRefused) as exc:
            said.extend((str(exc), repr(exc)))

    secrets.append(await site.use(link, GOOD, "ann@example.org"))
    secrets.append(await site.enter("ann@example.org"))
    secrets.append(await site.join("new"))
    await tried(lambda: site.enter(typed, "guess-guess"))
    await tried(lambda: site.enter("ann@example.org", "guess-guess"))
    await tried(lambda: site.use(link, OTHER))
    for current in ("guess-guess", GOOD):
        await tried(lambda c=current: site.sign_in.set_password(1, OTHER, current=c, keep=None))  # type: ignore[misc]
    await tried(lambda: site.sign_in.set_password(1, "ann@example.org", current=None, keep=None))
    said.append(repr(site.sign_in._passwords))
    assert len(said) >= 9
    assert "ann signed in from 192.0.2.1" in caplog.text
    stored = all_files(tmp_path)
    assert b"ann@example.org" in stored
    for secret in secrets:
        assert secret.encode() not in stored
        assert secret not in caplog.text
        assert not any(secret in one for one in said)
