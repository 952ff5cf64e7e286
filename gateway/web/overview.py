"""`/dashboard`: a user's balance, what is held of it, and the day so far."""

from aiohttp import web

from gateway.web.site import Page, Visit


async def overview(visit: Visit) -> web.StreamResponse:
    """The first page after signing in."""
    services = visit.site.services
    return await visit.render(
        "overview.html",
        funds=services.accounts.funds(visit.user.id),
        today=services.daily.today(visit.user.id, services.wall_ms()),
    )


PAGES = (Page("GET", "/dashboard", overview),)
