"""Signing in and out: the sign-in page, the one-time link's, sign-up where it is allowed.

A one-time link carries its token behind the `#`, which browsers do not send: a script puts it into
the form, so that the token is in no log and no history of a server.
"""

import logging
from typing import Any

from aiohttp import web

from gateway.accounts.sign_in import SignInRefused
from gateway.errors import Conflict, Missing, StoreError
from gateway.web import security
from gateway.web.site import Page, Problem, Visit

_log = logging.getLogger(__name__)


async def entrance(visit: Visit) -> web.StreamResponse:
    """The sign-in, or the overview of who is signed in already."""
    if visit.viewer is not None:
        return visit.go(_next(visit))
    return await _sign_in(visit)


async def sign_in(visit: Visit) -> web.StreamResponse:
    """E-mail and password."""
    try:
        token = await visit.site.sign_in.sign_in(
            visit.given("email") or "", visit.form.get("password", ""), _address(visit),
            lifetime_ms=_lifetime_ms(visit),
        )  # fmt: skip
    except SignInRefused as exc:
        return await _refused(visit, await _sign_in(visit, Problem(exc.message)), exc)
    return await _entered(visit, token, _next(visit))


async def sign_out(visit: Visit) -> web.StreamResponse:
    """End the session, here and on the server."""
    answer = visit.go("/dashboard/sign-in")
    try:
        await _end_session(visit)
    except StoreError:
        _log.exception("a sign-out was not written")
        answer = await visit.render(
            "said.html", status=503, title="Signed out for now",
            text="That cannot be written at present: after a restart of the server your session "
            "would be good again. Sign out everywhere else, under Settings, when it can be.",
        )  # fmt: skip
    security.drop_cookie(answer, visit.site.config, "gateway_session")
    return answer


async def welcome(visit: Visit) -> web.StreamResponse:
    """Where a one-time link leads: choose a password."""
    return await _welcome(visit)


async def use_link(visit: Visit) -> web.StreamResponse:
    """Set the password, and with it the first session."""
    password = visit.form.get("password", "")
    if password != visit.form.get("again", ""):
        return await _welcome(visit, Problem("The passwords differ", "again"))
    try:
        token = await visit.site.sign_in.use_link(
            visit.given("token") or "", password, visit.given("email"), _address(visit),
            lifetime_ms=_lifetime_ms(visit),
        )  # fmt: skip
    except SignInRefused as exc:
        return await _refused(visit, await _welcome(visit, Problem(exc.message)), exc)
    except Conflict as exc:
        return await _welcome(visit, Problem.of(exc))
    return await _entered(visit, token, "/dashboard")


async def sign_up(visit: Visit) -> web.StreamResponse:
    """A new account's form, where the operator allows that."""
    _check_open(visit)
    if visit.viewer is not None:
        return visit.go("/dashboard")
    return await _sign_up(visit)


async def signed_up(visit: Visit) -> web.StreamResponse:
    """Make the account and enter it."""
    _check_open(visit)
    password = visit.form.get("password", "")
    if password != visit.form.get("again", ""):
        return await _sign_up(visit, Problem("The passwords differ", "again"))
    try:
        token = await visit.site.sign_in.sign_up(
            visit.given("email") or "", password, visit.given("name") or "", _address(visit),
            lifetime_ms=_lifetime_ms(visit),
        )  # fmt: skip
    except SignInRefused as exc:
        return await _refused(visit, await _sign_up(visit, Problem(exc.message)), exc)
    except Conflict as exc:
        return await _sign_up(visit, Problem.of(exc))
    return await _entered(visit, token, "/dashboard")


def _check_open(visit: Visit) -> None:
    if not visit.site.config.dashboard.signup:
        raise Missing("Sign-up is closed on this server: ask its operator for an account")


async def _form(
    visit: Visit, template: str, problem: Problem | None, **values: Any
) -> web.Response:
    return await visit.render(
        template, status=200 if problem is None else 400, problem=problem, form=visit.form,
        **values,
    )  # fmt: skip


async def _sign_in(visit: Visit, problem: Problem | None = None) -> web.Response:
    return await _form(visit, "sign_in.html", problem, next=_next(visit))


async def _welcome(visit: Visit, problem: Problem | None = None) -> web.Response:
    return await _form(visit, "welcome.html", problem)


async def _sign_up(visit: Visit, problem: Problem | None = None) -> web.Response:
    return await _form(visit, "sign_up.html", problem)


async def _refused(visit: Visit, page: web.Response, exc: SignInRefused) -> web.Response:
    page.set_status(401 if exc.retry_after_s is None else 429)
    if exc.retry_after_s is not None:
        page.headers["Retry-After"] = str(exc.retry_after_s)
    return page


async def _end_session(visit: Visit) -> None:
    token = visit.cookie("gateway_session")
    if token is not None:
        try:
            await visit.site.sign_in.sign_out(token)
        finally:
            visit.identify()


async def _entered(visit: Visit, token: str, path: str) -> web.Response:
    # The one before would go on where nobody sees it: its cookie is written over.
    await _end_session(visit)
    answer = visit.go(path)
    security.set_cookie(
        answer, visit.site.config, "gateway_session", token,
        max_age_s=_lifetime_ms(visit) // 1000,
    )  # fmt: skip
    return answer


def _next(visit: Visit) -> str:
    wanted = visit.given("next") or visit.asked("next")
    return wanted if security.NEXT_PATH.fullmatch(wanted) else "/dashboard"


def _address(visit: Visit) -> str:
    return security.address_of(visit.request.remote, visit.request.headers)


def _lifetime_ms(visit: Visit) -> int:
    return round(visit.site.config.dashboard.session_hours * 3_600_000)


PAGES = (
    Page("GET", "/dashboard/sign-in", entrance, "anyone"),
    Page("POST", "/dashboard/sign-in", sign_in, "anyone"),
    Page("POST", "/dashboard/sign-out", sign_out, "anyone"),
    Page("GET", "/dashboard/welcome", welcome, "anyone"),
    Page("POST", "/dashboard/welcome", use_link, "anyone"),
    Page("GET", "/dashboard/sign-up", sign_up, "anyone"),
    Page("POST", "/dashboard/sign-up", signed_up, "anyone"),
)
