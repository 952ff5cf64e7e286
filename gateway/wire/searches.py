"""Searches that a provider runs, offered to a model beside the tools of the caller's own.

Agents offer them with every call, and most calls make no use of them. Toward a provider that knows
no such tool they are left out, and the caller is told: the model does without, as it would where
nothing was found. Where a search is all that is offered, or the model is made to use it, it is what
was asked for, and the call is refused. Other tools that a provider runs are never left out. Used by
readers of requests. Pure.
"""

from collections.abc import Iterable

from gateway.wire.conversation import Feature, Tool


class Searches:
    """The searches among one request's tools, as they are read."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def note(self, kind: str, field: str) -> None:
        """Note a search: its kind, and the field by which its caller is told of a refusal."""
        self._found.append((kind, field))

    def feature(self, tools: Iterable[Tool]) -> tuple[Feature, str] | None:
        """What the searches among all these tools are, and by which fields; None: there are none.

        The fields of those that are left out, which may be several, are one text.
        """
        if not self._found:
            return None
        if any(tool.opaque is None for tool in tools):
            kinds = dict.fromkeys(f"tools.{kind}" for kind, _ in self._found)
            return "offered_search", ", ".join(kinds)
        return "provider_tools", self._found[0][1]
