"""OpenAI's older text completions: `POST /v1/completions`.

One prompt or several (strings or token ids), `n` answers to each, `echo`, streamed or not; 16
tokens where `max_tokens` is absent, as the API reference (August 2026) says. Called by `server.py`.
"""

from typing import Any

import orjson

from gateway.demo import tokens
from gateway.demo.answer import Answer, Ask, compose
from gateway.demo.openai_chat import fault
from gateway.demo.openai_shapes import (
    Body,
    check_sampling,
    get_bool,
    get_object,
    get_stops,
    get_whole,
    missing,
    wrong_type,
)
from gateway.demo.reply import Reply, json_reply, new_id
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

DEFAULT_MAX_TOKENS = 16


def create(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer a text completion request."""
    check_sampling(body)
    prompts = read_prompts(body)
    max_tokens = get_whole(body, "max_tokens", 0)
    if max_tokens is None:
        max_tokens = DEFAULT_MAX_TOKENS if switches.tokens is None else switches.tokens
    count = get_whole(body, "n", 1, 128) or 1
    answers: list[tuple[str, Answer]] = []
    for text, pieces in prompts:
        for variant in range(count):
            ask = Ask(
                prompt=tuple(pieces),
                user_text=text,
                stop=get_stops(body),
                max_tokens=max_tokens,
                length=switches.tokens,
                variant=variant,
            )
            answers.append((text, compose(ask)))
    output = sum(answer.output_tokens for _, answer in answers)
    weight = sum(len(pieces) for _, pieces in prompts)
    usage = None
    if not switches.nousage:
        total = weight + output
        usage = {"prompt_tokens": weight, "completion_tokens": output, "total_tokens": total}
    envelope = {
        "id": new_id("cmpl-", 29),
        "object": "text_completion",
        "created": state.now(),
        "model": body["model"],
    }
    echo = get_bool(body, "echo")
    if not get_bool(body, "stream"):
        choices = [
            _choice(index, (text if echo else "") + answer.plain_text, answer.finish)
            for index, (text, answer) in enumerate(answers)
        ]
        document = {**envelope, "choices": choices}
        return json_reply("openai", document if usage is None else {**document, "usage": usage})
    asked = get_bool(get_object(body, "stream_options"), "include_usage")
    return Reply(
        content_type="text/event-stream; charset=utf-8",
        events=_events(envelope, answers, echo, usage if asked else None),
        fault=fault,
    )


def read_prompts(body: Body) -> list[tuple[str, list[str]]]:
    """The prompts, each as its text and its tokens."""
    prompt = body.get("prompt")
    if prompt is None:
        raise missing("prompt")
    if isinstance(prompt, str):
        return [(prompt, tokens.split(prompt))]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return [(item, tokens.split(item)) for item in prompt]
        if all(isinstance(item, int) for item in prompt):
            return [("", [f"<{item}>" for item in prompt])]
        if all(_is_token_list(item) for item in prompt):
            return [("", [f"<{number}>" for number in item]) for item in prompt]
    raise wrong_type("prompt", "a string or an array of strings or token ids", prompt)


def _is_token_list(item: Any) -> bool:
    return isinstance(item, list) and all(isinstance(number, int) for number in item)


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    reason = "stop" if finish == "stop_sequence" else finish
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def _events(
    envelope: dict[str, Any],
    answers: list[tuple[str, Answer]],
    echo: bool,
    usage: dict[str, Any] | None,
) -> list[bytes]:
    choices = []
    for index, (text, answer) in enumerate(answers):
        if echo:
            choices.append(_choice(index, text, None))
        choices += [_choice(index, piece, None) for piece in answer.text]
        choices.append(_choice(index, "", answer.finish))
    # With include_usage every chunk but the last carries a null.
    silent = {} if usage is None else {"usage": None}
    chunks = [{**envelope, "choices": [choice], **silent} for choice in choices]
    if usage is not None:
        chunks.append({**envelope, "choices": [], "usage": usage})
    return [*(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]
