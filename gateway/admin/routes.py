"""The table of the admin API: which method and path is which verb. Values only.

`http_api.py` serves it and the description of the API (`api/openapi.py`) lists it, so neither can
know a route that the other does not. What stands in braces in a path is an argument of the verb;
all others come in the query of a GET, and in the JSON body of everything else.
"""

import re
from typing import Literal

import msgspec

PREFIX = "/admin/v1"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

_BRACES = re.compile(r"\{([a-z_]+)(?::[^}]*)?\}")


class Route(msgspec.Struct, frozen=True):
    """One route. `path` is below `PREFIX`, in aiohttp's spelling.

    `lists` are arguments that a query gives with commas between; `headers` maps a field of the
    request's header to an argument.
    """

    method: Method
    path: str
    verb: str
    summary: str
    lists: tuple[str, ...] = ()
    headers: dict[str, str] = {}

    @property
    def in_path(self) -> tuple[str, ...]:
        """The arguments that the path gives."""
        return tuple(_BRACES.findall(self.path))

    @property
    def shown_path(self) -> str:
        """The whole path in OpenAPI's spelling."""
        return PREFIX + _BRACES.sub(r"{\1}", self.path)


ROUTES = (
    Route("GET", "/users", "users.list", "All users, with their balances"),
    Route("POST", "/users", "users.create", "Add a user"),
    Route("GET", "/users/{name}", "users.show", "One user"),
    Route("PATCH", "/users/{name}", "users.set", "Change a user: price, limits, alert"),
    Route("POST", "/users/{name}/suspend", "users.suspend", "Refuse all keys of a user"),
    Route("POST", "/users/{name}/resume", "users.resume", "Take them again"),
    Route(
        "POST", "/users/{name}/sign-in-link", "users.link",
        "A one-time link to set a password; its token is in this answer alone",
    ),
    Route("DELETE", "/users/{name}/sessions", "users.end_sessions", "Sign a user out everywhere"),
    Route(
        "POST", "/users/{user}/credits", "credit", "Give a user credit",
        headers={"Idempotency-Key": "idempotency_key"},
    ),
    Route("POST", "/users/{user}/corrections", "credit.correct", "Put a balance right"),
    Route("GET", "/users/{user}/caps", "caps.list", "What one call may cost, by model"),
    Route("POST", "/users/{user}/caps", "caps.set", "Set such a cap, or lift it"),
    Route("GET", "/keys", "keys.list", "Keys, without their text"),
    Route("POST", "/keys", "keys.create", "Issue a key; its text is in this answer alone"),
    Route("PATCH", "/keys/{id}", "keys.set", "Change a key"),
    Route("DELETE", "/keys/{id}", "keys.revoke", "Refuse a key from now on"),
    Route("GET", "/codes", "codes.list", "Redemption codes, newest first"),
    Route("POST", "/codes", "codes.create", "Make codes; their text is in this answer alone"),
    Route("POST", "/codes/redeem", "codes.redeem", "Credit a code to a user"),
    Route("GET", "/providers", "providers.list", "Providers, their keys and their health"),
    Route("PUT", "/providers/{name}", "providers.set", "Say where a provider is"),
    Route("DELETE", "/providers/{name}", "providers.remove", "Forget all that was set about it"),
    Route("POST", "/providers/{name}/pause", "providers.pause", "Send nothing to a provider"),
    Route("POST", "/providers/{name}/resume", "providers.resume", "Use it again"),
    Route("POST", "/providers/{provider}/keys", "providers.add_key", "Add a key, encrypted"),
    Route(
        "PATCH", "/providers/{provider}/keys/{id}", "providers.set_key", "Use a key, or do not"
    ),
    Route("DELETE", "/providers/{provider}/keys/{id}", "providers.remove_key", "Forget a key"),
    Route(
        "POST", "/providers/rotate-master", "providers.rotate_master",
        "Encrypt all provider keys with a new master key",
    ),
    Route("GET", "/models", "models.list", "Models, and what was set about them"),
    Route("GET", "/models/{name:.+}", "models.show", "What a name of a model stands for"),
    Route("PUT", "/models/{provider}/{model:.+}", "models.set", "Set price, multiplier, bounds"),
    Route("DELETE", "/models/{provider}/{model:.+}", "models.unset", "As the catalog has it"),
    Route("GET", "/receipts", "receipts.list", "Receipts of everybody, newest first"),
    Route("GET", "/receipts/{id}", "receipts.show", "One receipt"),
    Route("GET", "/usage", "usage", "Sums of requests, tokens, money", lists=("group_by",)),
    Route("GET", "/in-flight", "in_flight.list", "Requests being served"),
    Route("GET", "/ledger/check", "ledger.check", "The proof of the books"),
    Route("POST", "/reload", "reload", "Read the configuration again"),
)  # fmt: skip
