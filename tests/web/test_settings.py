"""A user's settings: e-mail and password change only for who knows the password; sessions end."""

from web_client import PASSWORD, Visitor, WebSite

from gateway.accounts.changes import UserChanges
from gateway.accounts.sign_in import EMAIL_ATTEMPTS_MAX

PAGE = "/dashboard/settings"
NEW = "quite another password"


async def elsewhere(site: WebSite) -> Visitor:
    """The same user at another place."""
    visitor = site.visitor()
    await visitor.sign_in("ada@example.org")
    return visitor


async def signs_in(site: WebSite, email: str, password: str) -> bool:
    return (await site.visitor().sign_in(email, password)).path == "/dashboard"


async def test_an_e_mail_is_changed_by_who_knows_the_password(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get(PAGE)
    path = f"{PAGE}/email"
    wrong = await ada.send(path, {"email": "new@example.org", "current_password": "wrong one"})
    assert (wrong.status, "Is not right" in wrong.words) == (400, True)
    assert 'value="new@example.org"' in wrong.text
    missing = await ada.send(path, {"email": "new@example.org"})
    assert (missing.status, "Is required" in missing.words) == (400, True)
    assert site.running.gateway.accounts.user_named("ada").email == "ada@example.org"
    seen = await ada.send(path, {"email": " new@example.org ", "current_password": PASSWORD})
    assert "You sign in with new@example.org from now on." in seen.words
    assert await signs_in(site, "new@example.org", PASSWORD)
    assert not await signs_in(site, "ada@example.org", PASSWORD)


async def test_an_e_mail_must_be_one_and_nobody_elses(site: WebSite) -> None:
    ada = await site.user("ada")
    await site.user("eve")
    await ada.get(PAGE)
    for email, said in (
        ("EVE@example.org", "Another user has it"),
        ("", "Is required, to sign in with"),
        ("no address", "Not an e-mail address"),
        ("<b>@x y", "Not an e-mail address"),
    ):
        fields = {"email": email, "current_password": PASSWORD}
        seen = await ada.send(f"{PAGE}/email", fields)
        assert (seen.status, said in seen.words) == (400, True), seen
        assert PASSWORD not in seen.text
    assert site.running.gateway.accounts.user_named("ada").email == "ada@example.org"


async def test_a_password_is_changed_and_every_other_session_ends(site: WebSite) -> None:
    ada = await site.user("ada")
    other = await elsewhere(site)
    await ada.get(PAGE)
    fields = {"current_password": PASSWORD, "password": NEW, "again": NEW}
    seen = await ada.send(f"{PAGE}/password", fields)
    assert "The password is changed. You are signed out everywhere else." in seen.words
    assert (await other.get(PAGE)).path.startswith("/dashboard/sign-in")
    assert (await ada.get(PAGE)).path == PAGE
    assert await signs_in(site, "ada@example.org", NEW)
    assert not await signs_in(site, "ada@example.org", PASSWORD)


async def test_a_password_is_not_changed_by_who_does_not_know_it_or_to_a_weak_one(
    site: WebSite,
) -> None:
    ada = await site.user("ada")
    other = await elsewhere(site)
    await ada.get(PAGE)
    for current, new, again, said in (
        ("wrong one", NEW, NEW, "Is not right"),
        ("", NEW, NEW, "Is required"),
        (PASSWORD, "short", "short", "Expected 10 to 256 characters"),
        (PASSWORD, "ada@example.org", "ada@example.org", "must not be the e-mail"),
        (PASSWORD, NEW, NEW + "!", "The passwords differ"),
    ):
        fields = {"current_password": current, "password": new, "again": again}
        seen = await ada.send(f"{PAGE}/password", fields)
        assert (seen.status, said.lower() in seen.words.lower()) == (400, True), seen
        assert NEW not in seen.text
    assert (await other.get(PAGE)).path == PAGE
    assert await signs_in(site, "ada@example.org", PASSWORD)


async def test_a_password_cannot_be_guessed_from_an_open_session(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get(PAGE)
    fields = {"email": "evil@example.org", "current_password": "a guess"}
    for _ in range(EMAIL_ATTEMPTS_MAX):
        assert (await ada.send(f"{PAGE}/email", fields)).status == 400
    seen = await ada.send(f"{PAGE}/email", fields | {"current_password": PASSWORD})
    assert seen.status == 429
    assert "Too many attempts" in seen.words
    assert int(seen.headers["Retry-After"]) > 0


async def test_one_can_sign_out_everywhere_else(site: WebSite) -> None:
    ada = await site.user("ada")
    others = [await elsewhere(site) for _ in range(2)]
    seen = await ada.get(PAGE)
    assert seen.text.count(">here<") == 1
    seen = await ada.send(f"{PAGE}/sessions")
    assert "Signed out of 2 other sessions." in seen.words
    assert "Sign out everywhere else" not in seen.words
    for other in others:
        assert (await other.get(PAGE)).path.startswith("/dashboard/sign-in")
    assert "nowhere else" in (await ada.send(f"{PAGE}/sessions")).words


async def test_the_account_is_told_with_its_prices_and_alert(site: WebSite) -> None:
    ada = await site.user("ada")
    assert "Daily alert none" in (await ada.get(PAGE)).words
    wanted = UserChanges(rate_multiplier="1.25", daily_alert_nano_usd=2_500_000_000)
    await site.running.gateway.accounts.update_user("ada", wanted)
    seen = await ada.get(PAGE)
    assert "Prices list price × 1.25" in seen.words
    assert "on a day (UTC) that costs you $2.50" in seen.words


async def test_a_form_from_elsewhere_changes_nothing(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    other = await elsewhere(site)
    foreign = (await eve.get(PAGE)).token
    forms = {
        "email": {"email": "evil@example.org", "current_password": PASSWORD},
        "password": {"current_password": PASSWORD, "password": NEW, "again": NEW},
        "sessions": {},
    }
    for name, fields in forms.items():
        for token, origin in (("", None), (foreign, None), (None, "http://evil.example")):
            await ada.get(PAGE)
            seen = await ada.send(f"{PAGE}/{name}", fields, token=token, origin=origin)
            assert seen.status == 403
    assert (await other.get(PAGE)).path == PAGE
    assert site.running.gateway.accounts.user_named("ada").email == "ada@example.org"
    assert await signs_in(site, "ada@example.org", PASSWORD)
