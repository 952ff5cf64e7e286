"""Samples: calls ready to paste, in curl, Python and Node, and the settings of clients. Pure.

The first call (`first_call`), which the page of a new key shows as well, is made here. All others
are the texts in `templates/docs/samples`, one file for each page of the documentation: a line
`@@ NAME | TAB | LANGUAGE` opens a sample, samples of one name are the tabs of one box, and
`@BASE@`, `@KEY@`, `@MODEL@`, … stand for what a server and a visitor have (`Filling`).

What goes into a sample is quoted for its language: model names are the operator's text, and a
shell runs what it is given. In Python, JavaScript, JSON and TOML a placeholder therefore stands
within double quotes only, in a shell within single quotes only; there `@MODEL:json@` is for one
within JSON and `@MODEL:path@` for one within the path of an address.
"""

import asyncio
import functools
import importlib.resources
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from gateway.api.models import offered
from gateway.ledger.catalog import Kind
from gateway.proxy.services import Services

_AT_ONCE = 40
"""Models looked at before other work has its turn: about 0.5 ms."""

_PLACE = re.compile(r"@([A-Z_]+)(?::(json|path))?@")


class Sample(NamedTuple):
    """A tab of the macro `tabs`."""

    name: str
    language: str
    text: str


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """What samples are filled with: this server, and as much of a key as may be shown."""

    base_url: str
    key: str
    model: str
    embedding: str
    receipt_id_header: str
    receipt_url_header: str

    def of(self, place: str) -> str:
        """What a placeholder stands for; KeyError where it is none."""
        return {
            "BASE": self.base_url,
            "KEY": self.key,
            "MODEL": self.model,
            "EMBEDDING": self.embedding,
            "RECEIPT_ID": self.receipt_id_header,
            "RECEIPT_URL": self.receipt_url_header,
        }[place]


class Filled(Mapping[str, list[Sample]]):
    """The samples by name, filled when they are asked for."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling

    def __getitem__(self, name: str) -> list[Sample]:
        return [one._replace(text=_fill(one, self._filling)) for one in templates()[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(templates())

    def __len__(self) -> int:
        return len(templates())


@functools.cache
def templates() -> Mapping[str, tuple[Sample, ...]]:
    """Every sample as it is written, by its name."""
    folder = importlib.resources.files("gateway.web").joinpath("templates", "docs", "samples")
    found: dict[str, tuple[Sample, ...]] = {}
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        for piece in file.read_text().split("@@ ")[1:]:
            head, _, text = piece.partition("\n")
            name, tab, language = (part.strip() for part in head.split("|"))
            found[name] = (*found.get(name, ()), Sample(tab, language, text.rstrip("\n")))
    return found


def _fill(sample: Sample, filling: Filling) -> str:
    shell = sample.language == "bash"

    def filled(found: re.Match[str]) -> str:
        value, how = filling.of(found[1]), found[2]
        if how == "path":
            value = quote(value, safe="/")
        elif how == "json" or not shell:
            value = _json(value)[1:-1]
        # A single quote ends the text that it stands in: close, quote it, open again.
        return value.replace("'", "'\\''") if shell else value

    return _PLACE.sub(filled, sample.text)


def first_model(services: Services, multiplier: str, allowed: list[str] | None) -> str | None:
    """A chat model that can be called now with a key that may call `allowed`; None: there is none.

    Where nothing is wrong with any, it is the first alias.
    """
    for one in offered(services, multiplier):
        if one.model.kind == "chat" and (allowed is None or one.id in allowed):
            return one.id
    return allowed[0] if allowed else None


async def first_of(services: Services, kind: Kind, allowed: list[str] | None) -> str | None:
    """A model of a kind that can be called now; gives way to other work while it looks."""
    for number, one in enumerate(offered(services, "1"), 1):
        if one.model.kind == kind and (allowed is None or one.id in allowed):
            return one.id
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return None


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
