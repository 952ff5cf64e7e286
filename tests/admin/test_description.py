"""`/openapi.json` against the gateway that serves it: no route undescribed, none made up."""

from collections import Counter
from pathlib import Path
from typing import Any

from admin_site import admin_site, canonical, routes
from harness import scenario

from gateway.admin.routes import ROUTES
from gateway.admin.verbs import VERBS
from gateway.api import openapi
from gateway.proxy import endpoints


async def described(directory: Path) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """The description, and the routes of the gateway that gave it."""
    async with admin_site(directory) as site:
        answer = await site.gateway.call("/openapi.json", method="GET", key=b"")
        served = {
            (method.lower(), canonical(path)) for method, path in routes(site.gateway.gateway)
        }
        document: dict[str, Any] = answer.json()
        return document, served


@scenario
async def test_every_page_is_described_and_everything_described_is_served(tmp_path: Path) -> None:
    document, served = await described(tmp_path)
    told = {(method, path) for path, item in document["paths"].items() for method in item}
    proxied = {(method, path) for path, method, _, _ in openapi._PROXIED}
    assert told - proxied == served
    assert proxied <= told
    assert {f"/v1/{path}" for _, path in endpoints.METERED} <= set(document["paths"])
    assert {f"/v1/{path}" for _, path in endpoints.FREE} <= set(document["paths"])
    for method in endpoints.GEMINI_METHODS:
        assert f"/v1beta/models/{{model}}:{method}" in document["paths"]


@scenario
async def test_operations_have_names_of_their_own_and_say_what_they_take(tmp_path: Path) -> None:
    document, _ = await described(tmp_path)
    names: Counter[str] = Counter()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names.update([operation.get("operationId", f"{method} {path}")])
            taken = [(one["name"], one["in"]) for one in operation["parameters"]]
            assert len(taken) == len(set(taken)), path
            assert operation["summary"], path
    assert max(names.values()) == 1
    credit = document["paths"]["/admin/v1/users/{user}/credits"]["post"]
    body = credit["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["amount"]
    assert set(body["properties"]) == {"amount"}
    assert ("Idempotency-Key", "header") in {
        (one["name"], one["in"]) for one in credit["parameters"]
    }
    usage = document["paths"]["/admin/v1/usage"]["get"]
    assert {one["name"] for one in usage["parameters"]} == {
        "since", "until", "group_by", "user", "key", "model"
    }  # fmt: skip


@scenario
async def test_what_is_answered_has_the_fields_that_are_described(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "1.00")
        assert (await site.chat(key)).status == 200
        document = (await site.gateway.call("/openapi.json", method="GET", key=b"")).json()
        schemas = document["components"]["schemas"]

        def fields(reference: dict[str, str]) -> tuple[set[str], set[str]]:
            schema = schemas[reference["$ref"].rpartition("/")[2]]
            return set(schema["properties"]), set(schema.get("required", ()))

        for target in ("/v1/account", "/v1/usage", "/v1/receipts"):
            answer = await site.gateway.call(target, method="GET", key=key)
            content = document["paths"][target]["get"]["responses"]["200"]["content"]
            schema = content["application/json"]["schema"]
            known = set(schema["properties"]) if "properties" in schema else fields(schema)[0]
            assert set(answer.json()) <= known, target
        for route in ROUTES:
            if route.method == "GET" and not route.in_path:
                found = await site.done("GET", route.path)
                operation = document["paths"][route.shown_path]["get"]
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
                known, required = fields(schema)
                assert required <= set(found) <= known, route.path


def test_every_verb_is_a_route_save_the_walk_along_the_chain() -> None:
    served = Counter(route.verb for route in ROUTES)
    # It reads every receipt there is: the command does that on the file, in its own process.
    assert set(VERBS) - set(served) == {"receipts.verify"}
    assert set(served.values()) == {1}
    assert all(set(route.in_path) <= taken(route.verb) for route in ROUTES)


def taken(verb: str) -> set[str]:
    return set(VERBS[verb].takes.__struct_fields__)
