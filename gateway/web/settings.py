"""`/dashboard/settings`: a user's e-mail, password and sessions, and what the account is."""

from aiohttp import web

from gateway.accounts.sign_in import SignInRefused
from gateway.config import nano_usd
from gateway.errors import Conflict
from gateway.web.site import Page, Problem, Visit

_PATH = "/dashboard/settings"


async def show(visit: Visit) -> web.StreamResponse:
    """All of it."""
    return await _show(visit)


async def change_email(visit: Visit) -> web.StreamResponse:
    """Another address to sign in with; only who knows the password may."""
    email = visit.given("email")
    try:
        if email is None:
            raise Conflict("email: is required, to sign in with")
        await visit.site.sign_in.check_password(
            visit.user.id, visit.form.get("current_password", "")
        )
        taken = visit.site.context.accounts.users_with_email(email)
        if any(one.id != visit.user.id for one in taken):
            raise Conflict("email: another user has it")
        await visit.verb("users.set", name=visit.user.name, email=email)
    except Conflict as exc:
        return await _show(visit, email=Problem.of(exc))
    except SignInRefused as exc:
        return _later(await _show(visit, email=Problem(exc.message)), exc)
    return visit.done(_PATH, f"You sign in with {email} from now on.")


async def change_password(visit: Visit) -> web.StreamResponse:
    """Another password; every other session ends."""
    new = visit.form.get("password", "")
    try:
        if new != visit.form.get("again", ""):
            raise Conflict("again: the passwords differ")
        await visit.site.sign_in.set_password(
            visit.user.id, new, current=visit.form.get("current_password", ""),
            keep=visit.cookie("gateway_session"),
        )  # fmt: skip
    except Conflict as exc:
        return await _show(visit, password=Problem.of(exc))
    except SignInRefused as exc:
        return _later(await _show(visit, password=Problem(exc.message)), exc)
    return visit.done(_PATH, "The password is changed. You are signed out everywhere else.")


async def end_others(visit: Visit) -> web.StreamResponse:
    """Sign out everywhere else."""
    ended = await visit.site.sign_in.end_sessions(
        visit.user.id, keep=visit.cookie("gateway_session")
    )
    told = "You were signed in nowhere else."
    if ended:
        told = f"Signed out of {ended} other {'session' if ended == 1 else 'sessions'}."
    return visit.done(_PATH, told)


async def _show(
    visit: Visit, *, email: Problem | None = None, password: Problem | None = None
) -> web.Response:
    assert visit.viewer is not None
    user = visit.user
    alert = user.daily_alert_nano_usd
    if alert is None:
        alert = nano_usd(visit.site.config.alerts.user_daily_usd)
    return await visit.render(
        "settings.html",
        status=200 if email is password is None else 400,
        email_problem=email,
        password_problem=password,
        email=visit.form.get("email", user.email or ""),
        session_id=visit.viewer.session.id,
        sessions=list(reversed(visit.site.sign_in.sessions(user.id))),
        alert=alert,
    )


def _later(page: web.Response, refused: SignInRefused) -> web.Response:
    page.set_status(429)
    if refused.retry_after_s is not None:
        page.headers["Retry-After"] = str(refused.retry_after_s)
    return page


PAGES = (
    Page("GET", _PATH, show),
    Page("POST", _PATH + "/email", change_email),
    Page("POST", _PATH + "/password", change_password),
    Page("POST", _PATH + "/sessions", end_others),
)
