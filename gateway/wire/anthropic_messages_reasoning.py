"""What Claude's generations accept of thinking, effort and sampling, which differ from each other.

`settled` makes of a neutral request the members `thinking`, effort and sampling that a model will
not refuse. Where they contradict each other here though not in the caller's format, thinking, being
a matter of degree, gives way to what is not (a forced tool, a temperature), and that is told; so
does `top_k` to thinking, as it only cuts the tail. Sources: platform.claude.com, "Thinking",
"Adaptive thinking", "Effort", "Migrating to Claude Opus 4.7" (November 2026). Pure; used by
`anthropic_messages_requests.py`.
"""

import re
from functools import lru_cache
from typing import Literal

import msgspec

from gateway.errors import GatewayError
from gateway.wire.anthropic_messages_blocks import FORMAT
from gateway.wire.conversation import (
    Effort,
    Feature,
    Message,
    Reasoning,
    Request,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.wire.format import Toward

BUDGET_TOKENS_MIN = 1024
"""The least that `budget_tokens` may be."""

TOP_P_THINKING_MIN = 0.95
"""The least `top_p` that thinking goes with."""

_BUDGETS: dict[Effort, int] = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
}
NAMES_REMEMBERED_MAX = 256
"""Of models: operators name a few."""

_EFFORTS: dict[Effort, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
}

# claude-3-7-sonnet-…, claude-sonnet-4-20250514, claude-opus-4-5@…, claude-4.7-opus
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_FAMILY = re.compile(r"claude-.*(?:opus|sonnet|haiku)|claude-(?:instant|\d)")

Mode = Literal["none", "budget", "both", "adaptive", "always"]
"""How a model thinks: not at all, by budget, by budget or as it sees fit, only as it sees fit, and
so even unasked."""


@lru_cache(NAMES_REMEMBERED_MAX)
def version(model: str) -> tuple[int, int] | None:
    """The generation of a Claude model; None for other models and names without one."""
    match = _VERSION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else None


def mode(model: str) -> Mode:
    """How a model thinks, by its name. Other vendors' models are taken to know budgets."""
    if "claude" not in model:
        return "budget"
    generation = version(model)
    if generation is None or not _FAMILY.search(model):
        return "always"
    if generation < (3, 7):
        return "none"
    if generation < (4, 6):
        return "budget"
    return "both" if generation == (4, 6) else "adaptive"


class Settled(msgspec.Struct):
    """The members to send; None: leave it out. `ignored` are the caller's fields left out."""

    thinking: dict[str, object] | None = None
    effort: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    ignored: list[str] = []


def settled(request: Request, toward: Toward, max_tokens: int) -> Settled:
    """Decide on thinking, effort and sampling.

    Raises `GatewayError` `unsupported_parameter` for a temperature above 1, and where temperature
    and `top_p` are both narrowed for a model that takes one of them.
    """
    found = Settled()
    # 1 is what both are by default: saying so changes nothing, and may collide with thinking.
    found.temperature = None if request.temperature == 1 else request.temperature
    found.top_p = None if request.top_p == 1 else request.top_p
    found.top_k = request.top_k
    _refuse_heat(request, toward, found)
    if request.reasoning is not None:
        _think(request, request.reasoning, mode(toward.model), max_tokens, found)
    if found.thinking is not None and found.thinking["type"] != "disabled":
        if found.top_k is not None:
            found.ignored.append(_field(request, "top_k"))
        found.top_k = None
        if mode(toward.model) in ("adaptive", "always") and found.top_p is not None:
            found.ignored.append(_field(request, "top_p"))
            found.top_p = None
    return found


def _field(request: Request, feature: Feature) -> str:
    return request.spelled.get(feature, feature)


def _refuse_heat(request: Request, toward: Toward, found: Settled) -> None:
    if found.temperature is not None and found.temperature > 1:
        field = request.spelled.get("temperature_above_1") or _field(request, "temperature")
        message = f"{field} must not be above 1 for this model's provider"
        raise GatewayError("unsupported_parameter", message, param=field)
    generation = version(toward.model)
    if found.temperature is None or found.top_p is None or generation is None:
        return
    if generation > (4, 1) or (generation == (4, 1) and "opus" in toward.model):
        field = _field(request, "top_p")
        message = f"{field} cannot be combined with a temperature for this model"
        raise GatewayError("unsupported_parameter", message, param=field)


def _think(
    request: Request, wanted: Reasoning, mode: Mode, max_tokens: int, found: Settled
) -> None:
    field = _field(request, "reasoning")
    if wanted.effort == "none" or wanted.budget_tokens == 0:
        if mode in ("both", "adaptive"):
            found.thinking = {"type": "disabled"}
        elif mode == "always":
            found.ignored.append(field)
        return
    if mode == "none":
        found.ignored.append(field)
        return
    by_budget = mode == "budget" or (mode == "both" and (wanted.budget_tokens or 0) > 0)
    if not by_budget:
        _adapt(wanted, mode, found, field)
    if _contradicted(request, found) or (by_budget and _unsigned_loop(request.messages)):
        found.ignored.append(field)
        found.thinking = None
    elif by_budget:
        _budget(wanted, max_tokens, found, field)
    if found.thinking is not None and not by_budget and wanted.show is not None:
        found.thinking["display"] = "summarized" if wanted.show else "omitted"


def _adapt(wanted: Reasoning, mode: Mode, found: Settled, field: str) -> None:
    effort = wanted.effort
    if effort is None and wanted.budget_tokens is not None and wanted.budget_tokens > 0:
        effort = _effort_of(wanted.budget_tokens)
        found.ignored.append(field)
    if effort is not None:
        # Before 4.7 there is nothing between "high" and "max".
        found.effort = "high" if mode == "both" and effort == "xhigh" else _EFFORTS[effort]
    found.thinking = {"type": "adaptive"}


def _effort_of(budget_tokens: int) -> Effort:
    for effort in ("low", "medium", "high"):
        if budget_tokens <= _BUDGETS[effort]:
            return effort
    return "xhigh"


def _budget(wanted: Reasoning, max_tokens: int, found: Settled, field: str) -> None:
    asked = wanted.budget_tokens or 0
    budget = asked if asked > 0 else _BUDGETS[wanted.effort or "medium"]
    room = max_tokens - 1 if asked > 0 and asked < max_tokens else max_tokens * 3 // 4
    budget = max(min(budget, room), BUDGET_TOKENS_MIN)
    if asked > 0 and asked != budget:
        found.ignored.append(field)
    if budget < max_tokens:
        found.thinking = {"type": "enabled", "budget_tokens": budget}
    elif asked <= 0:
        found.ignored.append(field)


def _contradicted(request: Request, found: Settled) -> bool:
    """Whether something is asked for that thinking does not go with."""
    choice = request.tool_choice
    forced = choice is not None and choice.mode == "required"
    narrow = found.top_p is not None and found.top_p < TOP_P_THINKING_MIN
    return forced or narrow or found.temperature is not None


def _unsigned_loop(messages: tuple[Message, ...]) -> bool:
    """Whether tool results answer calls of a turn that does not begin with signed thoughts.

    With a budget such a turn is refused ("Expected `thinking`"); it is what callers have whose
    format keeps no thoughts.
    """
    turn: list[Message] = []
    answered = False
    for message in reversed(messages):
        if message.role == "assistant":
            turn.insert(0, message)
        elif turn:
            break
        else:
            answered |= any(isinstance(block, ToolResult) for block in message.content)
    blocks = [block for message in turn for block in message.content]
    if not answered or not any(isinstance(block, ToolCall) for block in blocks):
        return False
    first = blocks[0]
    return not (
        isinstance(first, Thinking)
        and first.signature is not None
        and first.signature.format == FORMAT
    )
