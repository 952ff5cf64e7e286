"""A first call, ready to paste: curl, Python and Node. Pure.

What goes into them is quoted for its language: model names are the operator's text, and a shell
runs what it is given.
"""

import shlex
from typing import NamedTuple

import msgspec

from gateway.api.models import offered
from gateway.proxy.services import Services


class Sample(NamedTuple):
    """A tab of the macro `tabs`."""

    name: str
    language: str
    text: str


def first_model(services: Services, multiplier: str, allowed: list[str] | None) -> str | None:
    """A chat model that can be called now with a key that may call `allowed`; None: there is none.

    Where nothing is wrong with any, it is the first alias.
    """
    for one in offered(services, multiplier):
        if one.model.kind == "chat" and (allowed is None or one.id in allowed):
            return one.id
    return allowed[0] if allowed else None


def first_call(base_url: str, key: str, model: str) -> list[Sample]:
    """One question to a chat model."""
    body = _json({"model": model, "messages": [{"role": "user", "content": "Say hello."}]})
    curl = (
        f"curl {shlex.quote(base_url + '/v1/chat/completions')} \\\n"
        f"  -H {shlex.quote('Authorization: Bearer ' + key)} \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )
    # A JSON string is a literal of the same text in Python and in JavaScript.
    url, key_text, name = _json(f"{base_url}/v1"), _json(key), _json(model)
    python = (
        "from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={url}, api_key={key_text})\n"
        "answer = client.chat.completions.create(\n"
        f"    model={name},\n"
        '    messages=[{"role": "user", "content": "Say hello."}],\n'
        ")\n"
        "print(answer.choices[0].message.content)"
    )
    node = (
        'import OpenAI from "openai";\n\n'
        f"const client = new OpenAI({{ baseURL: {url}, apiKey: {key_text} }});\n"
        "const answer = await client.chat.completions.create({\n"
        f"  model: {name},\n"
        '  messages: [{ role: "user", content: "Say hello." }],\n'
        "});\n"
        "console.log(answer.choices[0].message.content);"
    )
    return [
        Sample("curl", "bash", curl),
        Sample("Python", "python", python),
        Sample("Node", "javascript", node),
    ]


def admin_call(base_url: str, key: str) -> list[Sample]:
    """The same for a key of the admin API."""
    curl = (
        f"curl {shlex.quote(base_url + '/admin/v1/users')} \\\n"
        f"  -H {shlex.quote('Authorization: Bearer ' + key)}"
    )
    return [Sample("curl", "bash", curl)]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
