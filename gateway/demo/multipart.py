"""Reading multipart bodies as they arrive, in flat memory.

A file part is hashed and counted, and only its opening is kept; form fields are short and bounded.
Raises `Refusal`. Used by `files.py` and `media.py`.
"""

import hashlib

import msgspec
from aiohttp import BodyPartReader, web

from gateway.demo.reply import Refusal

FIELD_BYTES_MAX = 64 * 1024
KEPT_BYTES_MAX = 64 * 1024
"""Of an upload's content, what is kept to be fetched again."""


class Upload(msgspec.Struct, frozen=True):
    """A file that was read: its size and digest, and its opening bytes."""

    filename: str
    size: int
    sha256: str
    kept: bytes

    @property
    def whole(self) -> bool:
        """Whether `kept` is all of it."""
        return len(self.kept) == self.size


class Form(msgspec.Struct, frozen=True):
    """A multipart body: its fields, and its files by the name of their field."""

    fields: dict[str, str]
    files: dict[str, Upload]


class Tally:
    """Counts and hashes a body piece by piece."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._kept = bytearray()
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hash.update(piece)
        self.size += len(piece)
        if len(self._kept) < KEPT_BYTES_MAX:
            self._kept += piece[: KEPT_BYTES_MAX - len(self._kept)]

    def upload(self, filename: str) -> Upload:
        """What was read, under a name."""
        return Upload(filename, self.size, self._hash.hexdigest(), bytes(self._kept))


async def read_form(request: web.Request) -> Form:
    """Read a multipart body to its end."""
    if not request.content_type.startswith("multipart/"):
        message = f"Invalid Content-Type: '{request.content_type}'. Expected multipart/form-data."
        raise Refusal(400, message)
    form = Form({}, {})
    try:
        reader = await request.multipart()
        async for part in reader:
            if isinstance(part, BodyPartReader) and part.name:
                await _read_part(part, form)
    except (ValueError, AssertionError) as error:
        # aiohttp says ValueError to a missing boundary and to parts that do not end.
        raise Refusal(400, "Could not parse the multipart body.") from error
    return form


async def _read_part(part: BodyPartReader, form: Form) -> None:
    name = part.name or ""
    tally = Tally()
    while piece := await part.read_chunk(1 << 16):
        tally.add(piece)
        if part.filename is None and tally.size > FIELD_BYTES_MAX:
            raise Refusal(400, f"Field '{name}' is too long.", param=name)
    upload = tally.upload(part.filename or name)
    if part.filename is not None:
        form.files[name] = upload
    else:
        form.fields[name] = upload.kept.decode("utf-8", "replace")
