"""What OpenAI's own models refuse of settings that others take.

Told by the model's name; names that are not OpenAI's are taken to accept everything, as compatible
servers mostly do. Raises `Refusal` in the API's words. Used by `openai_chat.py` and
`openai_response_input.py`.

Source: developers.openai.com "Reasoning models" and "Using GPT-5" (November 2026), and public
reports of the messages.
"""

import re
from typing import Any

from gateway.demo.reply import Refusal

_PLAIN = re.compile(r"gpt-(?:3|4)|chatgpt-")
_REASONING = re.compile(r"o\d(?:-|$)|gpt-5")
_NO_TEMPERATURE = re.compile(r"o\d(?:-|$)|gpt-5(?:-mini|-nano)?(?:-\d{4}|$)")

Body = dict[str, Any]


def check_chat(model: str, body: Body) -> None:
    """Check chat's settings against the model."""
    name = _bare(model)
    if _PLAIN.match(name) and body.get("reasoning_effort") is not None:
        message = "Unrecognized request argument supplied: reasoning_effort"
        raise Refusal(400, message, kind="invalid_request_error")
    if _REASONING.match(name) and body.get("max_tokens") is not None:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        raise _unsupported("max_tokens", f"{message}'max_completion_tokens' instead.")
    _check_temperature(name, body)


def check_responses(model: str, body: Body, reasoning: Body) -> None:
    """Check the settings of Responses against the model."""
    name = _bare(model)
    if _PLAIN.match(name):
        for field in ("effort", "summary"):
            if reasoning.get(field) is not None:
                param = f"reasoning.{field}"
                message = f"Unsupported parameter: '{param}' is not supported with this model."
                raise _unsupported(param, message)
    _check_temperature(name, body)


def _bare(model: str) -> str:
    """A model's name without its switches."""
    return model.partition("+")[0]


def _check_temperature(name: str, body: Body) -> None:
    value = body.get("temperature")
    if value is not None and value != 1 and _NO_TEMPERATURE.match(name):
        message = (
            f"Unsupported value: 'temperature' does not support {value} with this model. Only the "
            "default (1) value is supported."
        )
        raise _unsupported("temperature", message, "unsupported_value")


def _unsupported(param: str, message: str, code: str = "unsupported_parameter") -> Refusal:
    return Refusal(400, message, param=param, kind="invalid_request_error", code=code)
