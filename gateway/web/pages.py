"""Every page: its path, who may see it, and the wrapper that holds for all of them.

`register` adds the routes to the application. A page for users sends a visitor without session to
the sign-in and back; an admin's page is no page for anybody else. A form is read, bounded, and
checked before its page hears of it. What a page raises becomes a page that says so.
"""

import asyncio
import contextlib
import functools
import importlib.resources
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl, quote

import aiohttp_jinja2
import jinja2
from aiohttp import web
from multidict import MultiDict

from gateway.accounts.sign_in import SignIn
from gateway.admin.context import BadArguments, Context
from gateway.errors import Conflict, GatewayError, Missing, StoreError
from gateway.ledger.records import User
from gateway.proxy.services import Services
from gateway.web import (
    admin_codes,
    admin_everyone,
    admin_keys,
    admin_models,
    admin_providers,
    admin_users,
    docs,
    entrance,
    keys,
    models,
    once,
    openapi_page,
    overview,
    pricing,
    receipt_page,
    receipts,
    security,
    settings,
    shown,
    top_up,
)
from gateway.web.site import Page, Site, Visit
from gateway.web.static import PREFIX, Static

FORM_BYTES_MAX = 64 * 1024
FORM_FIELDS_MAX = 500

WARM_AFTER_S = 2.0
WARM_EVERY_S = 0.05
FORM_SECONDS = 30.0
"""Until a form must be here: it comes with its request, unless somebody holds it back."""

_log = logging.getLogger(__name__)

PAGES: tuple[Page, ...] = (
    *entrance.PAGES,
    *overview.PAGES,
    *keys.PAGES,
    *models.PAGES,
    *top_up.PAGES,
    *settings.PAGES,
    *receipts.PAGES,
    *receipt_page.PAGES,
    *admin_everyone.PAGES,
    *admin_users.PAGES,
    *admin_keys.PAGES,
    *admin_providers.PAGES,
    *admin_models.PAGES,
    *admin_codes.PAGES,
    *docs.PAGES,
    *pricing.PAGES,
    *openapi_page.PAGES,
)
"""All of them; each module of pages has its own part."""


def register(
    app: web.Application, context: Context, services: Services, sign_in: SignIn, secret: bytes
) -> Site:
    """Add every page to the application."""
    templates = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(
            str(importlib.resources.files("gateway.web").joinpath("templates"))
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
        filters=shown.FILTERS,
    )
    site = Site(context, services, sign_in, secret, templates, Static())
    templates.globals["static"] = site.static.path
    for page in PAGES:
        handler = _served(site, page)
        if page.method == "GET":
            app.router.add_get(page.path, handler)
        else:
            app.router.add_post(page.path, handler)
    app.router.add_get(PREFIX + "/{version}/{name}", site.static.serve)
    missing = _served(site, Page("GET", "", _no_such_page, "anyone"))
    app.router.add_get("/dashboard/{rest:.*}", missing)
    app.router.add_get("/docs/{rest:.*}", missing)
    app.cleanup_ctx.append(functools.partial(_warmed, templates))
    return site


async def _warmed(templates: jinja2.Environment, app: web.Application) -> AsyncIterator[None]:
    """Compile the templates one by one soon after the start, and not at a visitor's first look.

    Each takes some milliseconds of the loop, which then waits for no page ever again.
    """

    async def warm() -> None:
        await asyncio.sleep(WARM_AFTER_S)
        for name in templates.list_templates(extensions=["html"]):
            templates.get_template(name)
            await asyncio.sleep(WARM_EVERY_S)

    task = asyncio.get_running_loop().create_task(warm())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _served(site: Site, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        visit = Visit(site, request)
        answer = await _answer(visit, page)
        answer.headers.update(security.headers(visit.nonce))
        if visit.fresh_cookie is not None:
            security.set_cookie(answer, site.config, "gateway_visit", visit.fresh_cookie)
        return answer

    return serve


async def _answer(visit: Visit, page: Page) -> web.StreamResponse:
    try:
        refused = await _let_in(visit, page)
        if refused is None and page.method == "POST":
            visit.form = await _form(visit.request)
            # A form may be long in coming: who may send it is asked of the moment when it is here.
            visit.identify()
            refused = await _let_in(visit, page) or await _checked_form(visit)
        return refused if refused is not None else await _served_once(visit, page)
    except Missing as exc:
        return await _said(visit, 404, "Not found", str(exc))
    except BadArguments as exc:
        return await _said(visit, 400, "That did not work", str(exc))
    except Conflict as exc:
        return await _said(visit, 409, "That did not work", str(exc))
    except GatewayError as exc:
        return await _said(visit, exc.status, "That did not work", exc.message)
    except StoreError:
        _log.exception("a page failed: %r", visit.path[:200])
        return await _said(
            visit, 503, "Not possible at present", "The accounts cannot be read or written now."
        )
    except Exception:  # noqa: BLE001 - whatever a page raises, its visitor gets a page
        _log.exception("a page failed: %r", visit.path[:200])
        return await _said(visit, 500, "That did not work", "The gateway failed.")


async def _served_once(visit: Visit, page: Page) -> web.StreamResponse:
    """What the page gives; a form that may be sent once only is not sent again."""
    which = visit.form.get(once.FIELD)
    if which is None or visit.viewer is None:
        return await page.handler(visit)
    sent = (visit.viewer.session.id, visit.path, which[: once.FIELD_CHARS_MAX])
    return await visit.site.once.answer(sent, lambda: page.handler(visit))


async def _let_in(visit: Visit, page: Page) -> web.StreamResponse | None:
    """None where the visitor may see the page, or send its form."""
    viewer = visit.viewer
    if viewer is None and page.who != "anyone":
        if page.method == "POST":
            return await _said(visit, 401, "Signed out", "Your session has ended: sign in again.")
        to = visit.request.raw_path if visit.request.method == "GET" else "/dashboard"
        return visit.go(f"/dashboard/sign-in?next={quote(to, safe='/')}")
    if page.who == "admin" and viewer is not None and not _is_admin(viewer.user):
        return await _said(visit, 403, "Not for you", "This page is for admins.")
    return None


async def _checked_form(visit: Visit) -> web.StreamResponse | None:
    """None where the form is of a page of ours, and of this visitor."""
    given = visit.form.get(security.TOKEN_FIELD, "")
    if security.form_is_ours(visit.request, visit.site.config, given, visit.form_token):
        return None
    return await _said(
        visit, 403, "This form is not from here",
        "It was opened before you signed in or out, or another site sent it. Go back, load the "
        "page anew and try again.",
    )  # fmt: skip


def _is_admin(user: User) -> bool:
    """One who is suspended is none: their sessions last, and could end the suspension."""
    return user.admin and user.suspended_ms is None


async def _form(request: web.Request) -> MultiDict[str]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise GatewayError("invalid_request", "Expected a form")
    try:
        async with asyncio.timeout(FORM_SECONDS):
            body = await _read(request)
    except TimeoutError:
        raise GatewayError("invalid_request", "The form did not arrive in time") from None
    except web.RequestPayloadError:
        raise GatewayError("invalid_request", "The form broke off") from None
    try:
        fields = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX,
            errors="strict",
        )  # fmt: skip
    except ValueError:
        raise GatewayError("invalid_request", "The form cannot be read") from None
    return MultiDict(fields)


async def _read(request: web.Request) -> bytearray:
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise GatewayError("request_too_large", f"The form is over {FORM_BYTES_MAX} bytes")
    return body


async def _said(visit: Visit, status: int, title: str, text: str) -> web.Response:
    return await visit.render("said.html", status=status, title=title, text=text)


async def _no_such_page(visit: Visit) -> web.StreamResponse:
    return await _said(visit, 404, "Not found", "There is no such page.")
