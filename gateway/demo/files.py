"""OpenAI files and batches, and Gemini's file upload.

Uploads are counted and hashed as they stream in; the object that comes back tells `bytes` and
`sha256`, so a caller can prove that every byte arrived. The content of small files can be fetched
again. Batches are records only: they never run. Called by `server.py`.
"""

import base64
import secrets
from typing import Any

import msgspec
from aiohttp import web

from gateway.demo.multipart import Tally, Upload, read_form
from gateway.demo.openai_shapes import Body, get_string, missing
from gateway.demo.reply import Refusal, Reply, json_reply, new_id
from gateway.demo.state import DemoState, Shelf


class Kept(msgspec.Struct, frozen=True):
    """A file as listed, and what is kept of its content."""

    listing: dict[str, Any]
    upload: Upload


Files = Shelf[Kept]
Batches = Shelf[dict[str, Any]]


class OpenUpload(msgspec.Struct):
    """A resumable upload that has not been finalised."""

    tally: Tally
    name: str
    mime_type: str


Uploads = Shelf[OpenUpload]


async def upload(state: DemoState, files: Files, request: web.Request) -> Reply:
    """Answer `POST /v1/files`."""
    form = await read_form(request)
    if "file" not in form.files:
        raise missing("file")
    if not form.fields.get("purpose"):
        raise missing("purpose")
    sent = form.files["file"]
    listing: dict[str, Any] = {
        "object": "file",
        "id": new_id("file-"),
        "purpose": form.fields["purpose"],
        "filename": sent.filename,
        "bytes": sent.size,
        "sha256": sent.sha256,
        "created_at": state.now(),
        "expires_at": None,
        "status": "processed",
        "status_details": None,
    }
    files.put(listing["id"], Kept(listing, sent))
    return json_reply("openai", listing)


def list_all(files: Files) -> Reply:
    """Answer `GET /v1/files`: the newest first."""
    return json_reply("openai", _page([kept.listing for kept in reversed(files.values())]))


def fetch(files: Files, file_id: str) -> Reply:
    """Answer `GET /v1/files/{id}`."""
    return json_reply("openai", _find(files, file_id).listing)


def fetch_content(files: Files, file_id: str) -> Reply:
    """Answer `GET /v1/files/{id}/content`."""
    kept = _find(files, file_id)
    if not kept.upload.whole:
        raise Refusal(400, "The demo upstream keeps the content of small files only.")
    headers = {"content-disposition": "attachment"}
    return Reply(body=kept.upload.kept, content_type="application/octet-stream", headers=headers)


def delete(files: Files, file_id: str) -> Reply:
    """Answer `DELETE /v1/files/{id}`."""
    _find(files, file_id)
    files.pop(file_id)
    return json_reply("openai", {"object": "file", "id": file_id, "deleted": True})


def create_batch(state: DemoState, files: Files, batches: Batches, body: Body) -> Reply:
    """Answer `POST /v1/batches`."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if get_string(body, name) is None:
            raise missing(name)
    _find(files, body["input_file_id"])
    now = state.now()
    batch = {
        "id": new_id("batch_"),
        "object": "batch",
        "endpoint": body["endpoint"],
        "errors": None,
        "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": now + 86_400,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.get("metadata"),
    }
    batches.put(str(batch["id"]), batch)
    return json_reply("openai", batch)


def fetch_batch(batches: Batches, batch_id: str) -> Reply:
    """Answer `GET /v1/batches/{id}`."""
    batch = batches.get(batch_id)
    if batch is None:
        raise Refusal(404, f"No batch found with id '{batch_id}'.", kind="invalid_request_error")
    return json_reply("openai", batch)


def list_batches(batches: Batches) -> Reply:
    """Answer `GET /v1/batches`."""
    return json_reply("openai", _page(list(reversed(batches.values()))))


async def gemini_upload(
    state: DemoState, files: Files, uploads: Uploads, request: web.Request
) -> Reply:
    """Answer Google's upload endpoint: resumable (start, then the bytes) or at once.

    The protocol's commands are in `X-Goog-Upload-Command`; a start is answered with the URL that
    takes the bytes (Gemini API reference, "Files", August 2026).
    """
    command = request.headers.get("x-goog-upload-command", "")
    if "start" in command:
        return await _start(uploads, request)
    open_upload = uploads.get(request.query.get("upload_id", ""))
    if open_upload is None:
        if command or "upload_id" in request.query:
            raise Refusal(404, "Upload not found.")
        mime_type = request.content_type
        open_upload = OpenUpload(Tally(), f"files/{_file_id()}", mime_type)
    async for piece in request.content.iter_chunked(1 << 16):
        open_upload.tally.add(piece)
    if command and "finalize" not in command:
        return Reply(headers={"x-goog-upload-status": "active"}, body=b"")
    uploads.pop(request.query.get("upload_id", ""))
    listing = _gemini_listing(state, open_upload, request)
    files.put(open_upload.name, Kept(listing, open_upload.tally.upload(open_upload.name)))
    reply = json_reply("gemini", {"file": listing})
    return msgspec.structs.replace(reply, headers={"x-goog-upload-status": "final"})


def gemini_fetch(files: Files, name: str) -> Reply:
    """Answer `GET /v1beta/files/{id}`."""
    return json_reply("gemini", _gemini_find(files, name).listing)


def gemini_list(files: Files) -> Reply:
    """Answer `GET /v1beta/files`."""
    return json_reply("gemini", {"files": [kept.listing for kept in reversed(files.values())]})


def gemini_delete(files: Files, name: str) -> Reply:
    """Answer `DELETE /v1beta/files/{id}`."""
    _gemini_find(files, name)
    files.pop(name)
    return json_reply("gemini", {})


async def _start(uploads: Uploads, request: web.Request) -> Reply:
    try:
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refusal(400, "Invalid JSON payload received.") from error
    wanted = body.get("file") if isinstance(body.get("file"), dict) else {}
    name = wanted.get("name") if isinstance(wanted, dict) else None
    upload_id = new_id("", 40)
    mime_type = request.headers.get("x-goog-upload-header-content-type", "application/octet-stream")
    uploads.put(upload_id, OpenUpload(Tally(), str(name or f"files/{_file_id()}"), mime_type))
    url = f"{request.scheme}://{request.host}{request.path}?upload_id={upload_id}"
    protocol = "&upload_protocol=resumable"
    headers = {"x-goog-upload-url": url + protocol, "x-goog-upload-status": "active"}
    return Reply(headers=headers, body=b"", content_type="text/plain; charset=utf-8")


def _gemini_listing(state: DemoState, done: OpenUpload, request: web.Request) -> dict[str, Any]:
    sent = done.tally.upload(done.name)
    return {
        "name": done.name,
        "mimeType": done.mime_type,
        "sizeBytes": str(sent.size),
        "createTime": state.timestamp(),
        "updateTime": state.timestamp(),
        # The API gives the digest as base64 of its hexadecimal text.
        "sha256Hash": base64.b64encode(sent.sha256.encode()).decode(),
        "uri": f"{request.scheme}://{request.host}/gemini/v1beta/{done.name}",
        "state": "ACTIVE",
        "source": "UPLOADED",
    }


def _file_id() -> str:
    return secrets.token_hex(6)


def _find(files: Files, file_id: str) -> Kept:
    kept = files.get(file_id)
    if kept is None:
        message = f"No such File object: {file_id}"
        raise Refusal(404, message, param="id", kind="invalid_request_error")
    return kept


def _gemini_find(files: Files, name: str) -> Kept:
    kept = files.get(name)
    if kept is None:
        raise Refusal(403, f"You do not have permission to access the File {name}, or it is gone.")
    return kept


def _page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": items,
        "has_more": False,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }
