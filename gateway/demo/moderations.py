"""OpenAI moderations: `POST /v1/moderations`.

Flags a text that holds the word in `FLAGGED_WORD`, so that a caller can see both answers. Called
by `server.py`.
"""

from typing import Any

from gateway.demo.openai_shapes import Body, missing, read_content, wrong_type
from gateway.demo.reply import Reply, json_reply, new_id
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

FLAGGED_WORD = "flagme"

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def create(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer a moderation request: one result per text, one for a list of parts."""
    results = [_result(text) for text in _texts(body.get("input"))]
    model = body["model"]
    return json_reply("openai", {"id": new_id("modr-"), "model": model, "results": results})


def _texts(given: Any) -> list[str]:
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(text, str) for text in given):
            return given
        return [read_content(given, "input").text]
    raise wrong_type("input", "a string or an array", given)


def _result(text: str) -> dict[str, Any]:
    flagged = FLAGGED_WORD in text.lower().split()
    hit = {category: flagged and category == "harassment" for category in CATEGORIES}
    return {
        "flagged": flagged,
        "categories": hit,
        "category_scores": {category: 0.97 if hit[category] else 1e-5 for category in CATEGORIES},
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
    }
