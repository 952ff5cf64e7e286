"""What a page is given: the parts of the running server (`Site`) and one request (`Visit`).

Pages are coroutines from a `Visit` to an answer. They read through `visit.site`, change through
`visit.verb` (an admin verb, in the viewer's name), and answer with `visit.render` or `visit.go`.
Whoever lets an ordinary user call a verb checks first that what it is about is theirs: verbs are
the operator's and ask nobody. Event-loop thread only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jinja2
import msgspec
from aiohttp import web
from multidict import MultiDict

from gateway.accounts.attempts import Attempts
from gateway.accounts.sign_in import SignIn
from gateway.admin.context import Context, field_of
from gateway.admin.verbs import VERBS
from gateway.config import Config
from gateway.errors import Missing
from gateway.ledger.records import Session, User
from gateway.proxy.services import Services
from gateway.web import security
from gateway.web.once import Once
from gateway.web.static import Static

SLICE_S = 0.0005
PAUSE_S = 0.001
"""Rendering gives way this often, and for so long: a pause of nothing would let the loop go on, and
not the ledger's thread, for which answers wait. With it, a page takes 18 ms instead of 5."""

REDEEMS_MAX = 10
REDEEM_WINDOW_MS = 15 * 60_000

TOLD_MAX = 1000
"""Sessions that something is to be told."""

NOTICES_MAX = 20
"""Of one session."""

NOTICE_S = 300.0


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What the next look at `path` tells its visitor, once.

    `secret` is the text of a key or code that exists nowhere else; kept in memory only.
    """

    path: str
    text: str
    kind: Literal["done", "problem"] = "done"
    secret: str = ""
    secrets: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """Why a form was refused; `field` is the one at fault, where it is one."""

    message: str
    field: str | None = None

    @classmethod
    def of(cls, refusal: Exception) -> "Problem":
        """From a refused verb, whose message opens with the field."""
        message = str(refusal)
        at = field_of(message)
        if at is None:
            return cls(message[:1].upper() + message[1:])
        told = message.partition(": ")[2]
        return cls(told[:1].upper() + told[1:], at)


class Viewer(msgspec.Struct, frozen=True):
    """Who is signed in: the user as of this moment, and the session."""

    user: User
    session: Session


class _Left(msgspec.Struct):
    notice: Notice
    until: float


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages share."""

    context: Context
    services: Services
    sign_in: SignIn
    secret: bytes = field(repr=False)
    templates: jinja2.Environment
    static: Static
    once: Once = field(default_factory=Once)
    redeeming: Attempts = field(default_factory=lambda: Attempts(REDEEMS_MAX, REDEEM_WINDOW_MS))
    """Of redemption codes, by user id: who has none may guess no more often than this."""
    _left: dict[str, list[_Left]] = field(default_factory=dict, repr=False)
    """By session: whoever was left something last is last."""

    @property
    def config(self) -> Config:
        """The configuration of the moment."""
        return self.context.config()

    def leave(self, session_id: str, notice: Notice) -> None:
        """Keep a notice for the session's next look at its page.

        Others that were left before stay: somebody may have two pages open, and one of them a
        secret that is shown once.
        """
        now = time.monotonic()
        left = [one for one in self._left.pop(session_id, []) if one.until > now]
        self._left[session_id] = [*left, _Left(notice, now + NOTICE_S)][-NOTICES_MAX:]
        while len(self._left) > TOLD_MAX or next(iter(self._left.values()))[-1].until <= now:
            self._left.pop(next(iter(self._left)))

    def take(self, session_id: str, path: str) -> Notice | None:
        """The oldest notice for a page, and forget it; None where there is none for it."""
        now, left = time.monotonic(), self._left.get(session_id, [])
        for place, one in enumerate(left):
            if one.notice.path == path and one.until > now:
                del left[place]
                if not left:
                    del self._left[session_id]
                return one.notice
        return None


class Visit:
    """One request for a page."""

    __slots__ = ("_form_secret", "form", "fresh_cookie", "nonce", "request", "site", "viewer")

    def __init__(self, site: Site, request: web.Request) -> None:
        self.site = site
        self.request = request
        self.nonce = security.nonce()
        self.form: MultiDict[str] = MultiDict()
        self.viewer: Viewer | None = None
        self.fresh_cookie: str | None = None
        """A cookie that this answer sets, to which forms of a visitor without session are bound."""
        self.identify()

    def identify(self) -> None:
        """Look who it is, as of this moment: `viewer`, and what their forms are bound to."""
        self.viewer, self.fresh_cookie = self._viewer(), None
        if self.viewer is not None:
            self._form_secret = self.viewer.session.id
        else:
            known = self.cookie("gateway_visit")
            if known is None:
                known = self.fresh_cookie = security.nonce()
            self._form_secret = known

    def _viewer(self) -> Viewer | None:
        token = self.cookie("gateway_session")
        session = None if token is None else self.site.sign_in.session(token)
        if session is None:
            return None
        try:
            user = self.site.context.accounts.user(session.user_id)
        except KeyError:
            return None
        return Viewer(user, session)

    def cookie(self, name: str) -> str | None:
        """One of our cookies."""
        return self.request.cookies.get(security.cookie_name(self.site.config, name))

    @property
    def user(self) -> User:
        """Who is signed in; only on pages that want somebody to be."""
        assert self.viewer is not None
        return self.viewer.user

    @property
    def path(self) -> str:
        """The page's own path."""
        return self.request.path

    @property
    def base_url(self) -> str:
        """The server's address, for samples and links."""
        return security.base_url(self.request, self.site.config)

    @property
    def form_token(self) -> str:
        """What forms on this page carry."""
        return security.form_token(self.site.secret, self._form_secret)

    @property
    def once(self) -> str:
        """What tells a form from the same one shown another time (`once.py`)."""
        return security.nonce()

    def asked(self, name: str, default: str = "") -> str:
        """A parameter of the query, without spaces around it."""
        return self.request.query.get(name, default).strip()

    def given(self, name: str) -> str | None:
        """A field of the form, without spaces around it; None where it is empty or missing."""
        return self.form.get(name, "").strip() or None

    async def verb(self, name: str, /, **arguments: Any) -> Any:
        """Run an admin verb in the viewer's name and give its answer, decoded.

        Raises `Conflict` (`BadArguments`, `Missing`, `KeyReused`) or `StoreError`.
        """
        who = f"dashboard {self.user.name}"
        answer = await VERBS[name](self.site.context, msgspec.json.encode(arguments), who)
        return msgspec.json.decode(answer)

    def go(self, path: str, *, told: Notice | None = None) -> web.Response:
        """To another page (303), which tells a notice."""
        if told is not None and self.viewer is not None:
            self.site.leave(self.viewer.session.id, told)
        return web.Response(status=303, headers={"Location": path})

    def told(self) -> Notice | None:
        """What this page tells its visitor, once; nobody reads the answer to a HEAD."""
        if self.viewer is None or self.request.method == "HEAD":
            return None
        return self.site.take(self.viewer.session.id, self.path)

    def done(self, path: str, text: str) -> web.Response:
        """To another page, which says what was done."""
        return self.go(path, told=Notice(path=path, text=text))

    async def render(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """A page. Gives way to other work while it is made."""
        known: Mapping[str, Any] = {
            "visit": self, "viewer": self.viewer, "nonce": self.nonce, "notice": self.told(),
            "csrf": self.form_token, "base_url": self.base_url, "config": self.site.config,
            **values,
        }  # fmt: skip
        pieces: list[str] = []
        until = time.perf_counter() + SLICE_S
        for piece in self.site.templates.get_template(template).generate(known):
            pieces.append(piece)
            if time.perf_counter() > until:
                await asyncio.sleep(PAUSE_S)
                until = time.perf_counter() + SLICE_S
        return web.Response(text="".join(pieces), content_type="text/html", status=status)

    def own_key(self, key_id: str) -> str:
        """The id of a key that is the viewer's; `Missing` for another's as for none."""
        if self.site.context.accounts.key(key_id).user_id != self.user.id:
            raise Missing(f"there is no key {key_id!r}")
        return key_id


Handler = Callable[[Visit], Awaitable[web.StreamResponse]]


class Page(NamedTuple):
    """One page, or what one of its forms does, and who may."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    who: Literal["anyone", "user", "admin"] = "user"
