"""The names that Gemini's requests may have, and what its models take of thinking.

Google's JSON refuses any name that it does not know, at any depth. `check_names` is handed an
object whose keys are in camel case already. Raises `Refusal`. Used by `gemini_input.py`.

Source: ai.google.dev API reference, "generateContent", "Gemini thinking", "Thought signatures"
(November 2026), and public reports of the messages.
"""

import re
from typing import Any

from gateway.demo.reply import Refusal

Body = dict[str, Any]

NAMES: dict[str, frozenset[str]] = {
    "content": frozenset(("role", "parts")),
    "part": frozenset(
        {
            "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode",
            "codeExecutionResult", "thought", "thoughtSignature", "videoMetadata",
            "mediaResolution", "partMetadata", "toolCall", "toolResponse",
        }
    ),
    "inline_data": frozenset(("mimeType", "data")),
    "file_data": frozenset(("mimeType", "fileUri")),
    "function_call": frozenset(("id", "name", "args")),
    "function_response": frozenset(
        ("id", "name", "response", "parts", "willContinue", "scheduling")
    ),
    "function_declaration": frozenset(
        {
            "name", "description", "parameters", "parametersJsonSchema", "response",
            "responseJsonSchema", "behavior",
        }
    ),
    "function_calling_config": frozenset(("mode", "allowedFunctionNames")),
    "thinking_config": frozenset(("includeThoughts", "thinkingBudget", "thinkingLevel")),
    "generation_config": frozenset(
        {
            "candidateCount", "stopSequences", "maxOutputTokens", "temperature", "topP", "topK",
            "seed", "presencePenalty", "frequencyPenalty", "responseLogprobs", "logprobs",
            "responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities",
            "speechConfig", "thinkingConfig", "mediaResolution", "imageConfig",
            "enableEnhancedCivicAnswers",
        }
    ),
}  # fmt: skip

SKIPPED = frozenset(
    {
        "skip_thought_signature_validator", "context_engineering_is_the_way_to_go",
        # The same as the base64 of a `bytes` field.
        "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=",
        "Y29udGV4dF9lbmdpbmVlcmluZ19pc190aGVfd2F5X3RvX2dv",
    }
)  # fmt: skip
"""What Google takes as the signature of a call that another model made."""

LEVELS = {"MINIMAL": 8, "LOW": 16, "MEDIUM": 32, "HIGH": 48}
"""What a demo model thinks, in tokens; a budget may ask for less than the most."""

_RELEASE = re.compile(r"gemini-(\d+)(?:\.(\d+))?")


def invalid(message: str, field: str | None = None) -> Refusal:
    """A 400 INVALID_ARGUMENT, with the field's violation where one is named."""
    details = None
    if field is not None:
        violation = {"field": field, "description": message}
        kind = "type.googleapis.com/google.rpc.BadRequest"
        details = [{"@type": kind, "fieldViolations": [violation]}]
    return Refusal(400, message, details=details)


def unknown_name(name: str, where: str) -> Refusal:
    """The refusal of a name that no field has; `where` is the object's path, "" at the top."""
    at = f" at '{where}'" if where else ""
    message = f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
    return invalid(message, where or name)


def check_names(holder: Body, kind: str, where: str) -> None:
    """Refuse a name that an object of this kind does not have."""
    for name in holder:
        if name not in NAMES[kind]:
            raise unknown_name(name, where)


def release(model: str) -> tuple[int, int] | None:
    """The release of one of Google's models; None for any other name."""
    found = _RELEASE.match(model.partition("+")[0])
    return (int(found[1]), int(found[2] or 0)) if found else None


def thinking_tokens(model: str, thinking: Body | None) -> int:
    """How long a model thinks, by its `thinkingConfig` (keys in camel case; None: not given).

    Gemini 3 thinks unless told otherwise; before, the demo thinks only where it is asked to.
    """
    known = release(model)
    if thinking is None:
        return LEVELS["HIGH"] if known is not None and known >= (3, 0) else 0
    check_names(thinking, "thinking_config", "generation_config.thinking_config")
    level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
    if known is not None:
        _check_model(model, known, level, budget)
    return _spent(level, budget)


def _spent(level: Any, budget: Any) -> int:
    if level is not None:
        spelled = str(level).upper()
        if spelled not in LEVELS and spelled != "THINKING_LEVEL_UNSPECIFIED":
            field = "generation_config.thinking_config.thinking_level"
            raise invalid(f"Invalid value at '{field}' (TYPE_ENUM), \"{level}\"", field)
        if budget is not None:
            raise invalid("You can only set only one of thinking budget and thinking level.")
        return LEVELS.get(spelled, LEVELS["HIGH"])
    if budget is None:
        return LEVELS["HIGH"]
    if isinstance(budget, bool) or not isinstance(budget, int):
        field = "generation_config.thinking_config.thinking_budget"
        raise invalid(f"Invalid value at '{field}' (TYPE_INT32), \"{budget}\"", field)
    return LEVELS["HIGH"] if budget < 0 else min(budget, LEVELS["HIGH"])


def _check_model(model: str, known: tuple[int, int], level: Any, budget: Any) -> None:
    if known < (2, 5):
        raise invalid("Thinking is not enabled for this model.")
    if level is not None and known < (3, 0):
        raise invalid("Thinking level is not supported for this model.")
    if not isinstance(budget, int) or isinstance(budget, bool) or known >= (3, 0) or budget == -1:
        return
    pro = "pro" in model
    if budget == 0 and pro:
        raise invalid("Budget 0 is invalid. This model only works in thinking mode.")
    low, high = (128, 32768) if pro else (0, 24576)
    if not low <= budget <= high:
        message = f"The thinking budget {budget} is invalid. Please choose a value between {low} "
        raise invalid(f"{message}and {high}.")
