"""Forms that make something, sent twice: the second gets what the first did, and makes nothing.

People press twice, browsers send again what got no answer. Such a form carries `FIELD`, new each
time it is shown, by which the page that it led to is remembered for `REMEMBERED_S`. What was begun
is done to its end even if its sender is gone, so that whoever sends it again learns of it. Used by
`pages.py`. Event-loop thread only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

FIELD = "once"
FIELD_CHARS_MAX = 64

REMEMBERED_S = 600.0
REMEMBERED_MAX = 1000

Doing = Callable[[], Awaitable[web.StreamResponse]]
Sent = tuple[str, str, str]
"""A form: whose session it is of, its path, and its `FIELD`."""


class _Begun(NamedTuple):
    task: asyncio.Task[web.StreamResponse]
    until: float


class Once:
    """What was sent lately."""

    def __init__(self) -> None:
        self._begun: dict[Sent, _Begun] = {}

    async def answer(self, sent: Sent, do: Doing) -> web.StreamResponse:
        """What `do` gives; for a form that was sent before the way to the page that it led to.

        One that led nowhere (it was refused, or failed) may be sent again. Raises what `do` does.
        """
        self._forget()
        begun = self._begun.get(sent)
        if begun is None:
            task = asyncio.ensure_future(do())
            self._begun[sent] = _Begun(task, time.monotonic() + REMEMBERED_S)
            task.add_done_callback(lambda _: self._ended(sent, task))
            return await asyncio.shield(task)
        answer = await asyncio.shield(begun.task)
        if answer.status != 303:
            # It may have ended just now and not be forgotten yet: waiting again would not wait.
            if self._begun.get(sent) is begun:
                del self._begun[sent]
            return await self.answer(sent, do)
        # An answer is of one request: this one's is another that says the same.
        return web.Response(status=303, headers={"Location": answer.headers["Location"]})

    def _ended(self, sent: Sent, task: asyncio.Task[web.StreamResponse]) -> None:
        # Asking for the exception also tells the loop that it is known, where nobody waits.
        led = not task.cancelled() and task.exception() is None and task.result().status == 303
        begun = self._begun.get(sent)
        if not led and begun is not None and begun.task is task:
            del self._begun[sent]

    def _forget(self) -> None:
        now = time.monotonic()
        while self._begun:
            oldest = next(iter(self._begun))
            if len(self._begun) <= REMEMBERED_MAX and self._begun[oldest].until > now:
                return
            del self._begun[oldest]
