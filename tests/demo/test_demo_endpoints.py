"""Every endpoint beside plain chat: state, files, media, lists, caching, credentials."""

import base64
import hashlib
import math
import re
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from demo_grammar import frames
from demo_provider import CHAT, GEMINI, MESSAGES, RESPONSES, Provider, provider

LONG = "word " * 2000

USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "credentials", "kind"),
    [
        ("/v1/models", ["authorization"], "invalid_request_error"),
        ("/anthropic/v1/models", ["authorization", "x-api-key"], "authentication_error"),
        ("/gemini/v1beta/models", ["x-goog-api-key", "authorization"], "UNAUTHENTICATED"),
    ],
)
async def test_no_credential_is_a_401_and_any_credential_is_taken(
    path: str, credentials: list[str], kind: str
) -> None:
    async with provider() as demo:
        url = f"http://127.0.0.1:{demo.port}{path}"
        async with demo.session.get(url) as answer:
            assert answer.status == 401
            error = orjson.loads(await answer.read())["error"]
            assert kind in (error.get("type"), error.get("status"))
        for name in credentials:
            for value, status in (("Bearer x", 200), ("", 401)):
                async with demo.session.get(url, headers={name: value}) as answer:
                    assert answer.status == status


async def test_geminis_key_may_be_in_the_query() -> None:
    async with provider() as demo:
        url = f"http://127.0.0.1:{demo.port}/gemini/v1beta/models"
        async with demo.session.get(url, params={"key": "x"}) as answer:
            assert answer.status == 200


async def test_answers_carry_each_providers_headers() -> None:
    async with provider() as demo:
        openai = await demo.post("/v1/chat/completions", CHAT.body("demo", "x", False))
        assert openai.headers["x-request-id"].startswith("req_")
        assert openai.headers["openai-processing-ms"].isdigit()
        assert openai.headers["x-ratelimit-remaining-requests"] == "9999"
        anthropic = await demo.post(MESSAGES.path("", True), MESSAGES.body("demo", "x", True))
        assert anthropic.headers["request-id"].startswith("req_")
        assert "anthropic-ratelimit-input-tokens-remaining" in anthropic.headers
        assert "x-request-id" not in anthropic.headers
        gemini = await demo.post(GEMINI.path("demo", False), GEMINI.body("demo", "x", False))
        assert gemini.headers["server-timing"].startswith("gfet4t7; dur=")


async def test_stop_sequences_end_the_answer_before_themselves() -> None:
    async with provider() as demo:
        body = {**CHAT.body("demo", "alpha HALT beta", False), "stop": ["HALT", "beta"]}
        [choice] = (await demo.post("/v1/chat/completions", body)).json()["choices"]
        assert choice["message"]["content"] == 'You said: "alpha '
        assert choice["finish_reason"] == "stop"
        body = {**MESSAGES.body("demo", "alpha HALT beta", False), "stop_sequences": ["HALT"]}
        message = (await demo.post("/anthropic/v1/messages", body)).json()
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "HALT")
        assert message["content"][0]["text"] == 'You said: "alpha '


async def test_n_answers_differ_and_their_streams_interleave() -> None:
    async with provider() as demo:
        body = {**CHAT.body("demo+pace=0", "x", False), "n": 3}
        document = (await demo.post("/v1/chat/completions", body)).json()
        texts = [choice["message"]["content"] for choice in document["choices"]]
        assert len(set(texts)) == 3
        streamed = await demo.post("/v1/chat/completions", {**body, "stream": True})
        joined = ["", "", ""]
        order = []
        for _, data in frames(streamed.body)[:-1]:
            [choice] = orjson.loads(data)["choices"]
            joined[choice["index"]] += choice["delta"].get("content") or ""
            order.append(choice["index"])
        assert joined == texts
        assert order[:6] == [0, 1, 2, 0, 1, 2]


async def test_json_mode_answers_json_and_a_named_tool_finishes_with_stop() -> None:
    async with provider() as demo:
        body = {**CHAT.body("demo", "as json", False), "response_format": {"type": "json_object"}}
        [choice] = (await demo.post("/v1/chat/completions", body)).json()["choices"]
        assert "as json" in orjson.loads(choice["message"]["content"])["answer"]
        function = {"name": "f"}
        tools = [{"type": "function", "function": function}]
        choice = {"type": "function", "function": function}
        body = {**CHAT.body("demo", "x", False), "tools": tools, "tool_choice": choice}
        [choice] = (await demo.post("/v1/chat/completions", body)).json()["choices"]
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"
        assert choice["finish_reason"] == "stop"


async def test_long_prompts_are_reported_as_cached_the_second_time() -> None:
    async with provider() as demo:
        seen = []
        for _ in range(2):
            usage = (await demo.post("/v1/chat/completions", CHAT.body("demo", LONG, False))).json()
            seen.append(usage["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert seen[0] == 0
        assert seen[1] > 1024
        usage = (await demo.post("/v1/responses", RESPONSES.body("demo", LONG, False))).json()
        assert "cached_tokens" in usage["usage"]["input_tokens_details"]
        await demo.post(GEMINI.path("demo-2", False), GEMINI.body("", LONG, False))
        answer = await demo.post(GEMINI.path("demo-2", False), GEMINI.body("", LONG, False))
        assert answer.json()["usageMetadata"]["cachedContentTokenCount"] > 1024


async def test_cache_points_are_written_then_read_and_excluded_from_the_input() -> None:
    async with provider() as demo:
        control = {"type": "ephemeral", "ttl": "1h"}
        system = [{"type": "text", "text": LONG, "cache_control": control}]
        body = {**MESSAGES.body("demo", "x", False), "system": system}
        first = (await demo.post("/anthropic/v1/messages", body)).json()["usage"]
        second = (await demo.post("/anthropic/v1/messages", body)).json()["usage"]
        written = first["cache_creation_input_tokens"]
        assert written > 1024
        assert first["cache_creation"]["ephemeral_1h_input_tokens"] == written
        assert second["cache_read_input_tokens"] == written
        assert second["cache_creation_input_tokens"] == 0
        assert first["input_tokens"] == second["input_tokens"] < 20
        counted = await demo.post("/anthropic/v1/messages/count_tokens", body)
        assert counted.json()["input_tokens"] == written + first["input_tokens"]


async def test_a_thinking_block_is_taken_back_with_its_signature() -> None:
    async with provider() as demo:
        body = {**MESSAGES.body("demo", "x", False), "thinking": {"type": "adaptive"}}
        message = (await demo.post("/anthropic/v1/messages", body)).json()
        turns = [USER, {"role": "assistant", "content": message["content"]}, USER]
        answer = await demo.post("/anthropic/v1/messages", {**body, "messages": turns})
        assert answer.status == 200


async def test_a_response_is_stored_continued_fetched_and_deleted() -> None:
    async with provider() as demo:
        first = (await demo.post("/v1/responses", RESPONSES.body("demo", "one", False))).json()
        path = f"/v1/responses/{first['id']}"
        assert (await demo.call("GET", path)).json() == first
        body = {**RESPONSES.body("demo", "two", False), "previous_response_id": first["id"]}
        second = (await demo.post("/v1/responses", body)).json()
        grown = second["usage"]["input_tokens"] - first["usage"]["input_tokens"]
        assert grown > first["usage"]["output_tokens"]
        deleted = await demo.call("DELETE", path)
        assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
        assert (await demo.call("GET", path)).status == 404
        gone = await demo.post("/v1/responses", body)
        assert gone.status == 400
        assert gone.json()["error"]["code"] == "previous_response_not_found"
        unstored = await demo.post(
            "/v1/responses", {**RESPONSES.body("demo", "x", False), "store": False}
        )
        assert (await demo.call("GET", f"/v1/responses/{unstored.json()['id']}")).status == 404


async def test_a_streamed_response_can_be_fetched_too() -> None:
    async with provider() as demo:
        answer = await demo.post("/v1/responses", RESPONSES.body("demo+pace=0", "x", True))
        last = orjson.loads(frames(answer.body)[-1][1])["response"]
        assert (await demo.call("GET", f"/v1/responses/{last['id']}")).json() == last


async def test_only_a_background_response_can_be_cancelled() -> None:
    async with provider() as demo:
        body = RESPONSES.body("demo", "x", False)
        plain = (await demo.post("/v1/responses", body)).json()
        refused = await demo.call("POST", f"/v1/responses/{plain['id']}/cancel")
        assert refused.status == 400
        queued = (await demo.post("/v1/responses", {**body, "background": True})).json()
        assert (queued["status"], queued["output"]) == ("queued", [])
        path = f"/v1/responses/{queued['id']}"
        assert (await demo.call("GET", path)).json()["status"] == "in_progress"
        assert (await demo.call("POST", f"{path}/cancel")).json()["status"] == "cancelled"
        assert (await demo.call("GET", path)).json()["status"] == "cancelled"


async def test_compaction_seals_all_but_the_users_words() -> None:
    async with provider() as demo:
        answer = {"role": "assistant", "content": "hidden words"}
        body = {"model": "demo", "input": [USER, answer]}
        compacted = await demo.post("/v1/responses/compact", body)
        document = compacted.json()
        assert document["object"] == "response.compaction"
        assert [item["type"] for item in document["output"]] == ["message", "compaction"]
        assert b"hidden" not in compacted.body
        body = {"model": "demo", "input": [*document["output"], USER]}
        assert (await demo.post("/v1/responses", body)).status == 200


async def test_completions_answer_each_prompt_and_stream_the_same() -> None:
    async with provider() as demo:
        body = {"model": "demo+pace=0", "prompt": ["one", "two"], "echo": True}
        document = (await demo.post("/v1/completions", body)).json()
        texts = [choice["text"] for choice in document["choices"]]
        assert [text[:3] for text in texts] == ["one", "two"]
        assert document["usage"]["completion_tokens"] == 32
        options = {"include_usage": True}
        streamed = await demo.post(
            "/v1/completions", {**body, "stream": True, "stream_options": options}
        )
        *events, (_, last) = frames(streamed.body)
        assert last == b"[DONE]"
        *chunks, usage = [orjson.loads(data) for _, data in events]
        joined = ["", ""]
        for chunk in chunks:
            assert chunk["usage"] is None
            joined[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert joined == texts
        assert (usage["choices"], usage["usage"]) == ([], document["usage"])


async def test_embeddings_are_unit_vectors_in_either_encoding() -> None:
    async with provider() as demo:
        body = {"model": "demo-embed", "input": ["a", "b", "a"], "dimensions": 32}
        document = (await demo.post("/v1/embeddings", body)).json()
        first, other, again = (item["embedding"] for item in document["data"])
        assert len(first) == 32
        assert math.isclose(sum(value * value for value in first), 1.0)
        assert first == again != other
        assert document["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        packed = (await demo.post("/v1/embeddings", {**body, "encoding_format": "base64"})).json()
        decoded = struct.unpack("<32f", base64.b64decode(packed["data"][0]["embedding"]))
        assert decoded == pytest.approx(first, abs=1e-6)
        plain = (await demo.post("/v1/embeddings", {"model": "demo-embed", "input": "a"})).json()
        assert len(plain["data"][0]["embedding"]) == 1536


async def test_gemini_embeds_one_text_or_many() -> None:
    async with provider() as demo:
        content = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 16}
        one = (await demo.post("/gemini/v1beta/models/demo-embed:embedContent", content)).json()
        assert len(one["embedding"]["values"]) == 16
        assert one["usageMetadata"]["promptTokenCount"] == 1
        path = "/gemini/v1beta/models/demo-embed:batchEmbedContents"
        many = (await demo.post(path, {"requests": [content, content]})).json()
        assert [item["values"] for item in many["embeddings"]] == [one["embedding"]["values"]] * 2
        assert (await demo.post(path, {"requests": [{}]})).status == 400


async def test_moderation_flags_its_word_only() -> None:
    async with provider() as demo:
        answer = await demo.post("/v1/moderations", {"input": ["flagme please", "all well"]})
        assert [result["flagged"] for result in answer.json()["results"]] == [True, False]


async def test_an_upload_of_many_pieces_is_counted_and_hashed_in_full() -> None:
    block = bytes(range(256)) * 256
    blocks = 300  # about 20 MB, never in one piece on either side

    async def content() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            yield block

    expected = hashlib.sha256(block * blocks).hexdigest()
    async with provider() as demo:
        form = aiohttp.MultipartWriter("form-data")
        form.append("batch").set_content_disposition("form-data", name="purpose")
        part = form.append(content())
        part.set_content_disposition("form-data", name="file", filename="big.bin")
        listing = (await demo.call("POST", "/v1/files", data=form)).json()
        assert (listing["bytes"], listing["sha256"]) == (len(block) * blocks, expected)
        assert (listing["filename"], listing["purpose"]) == ("big.bin", "batch")
        refused = await demo.call("GET", f"/v1/files/{listing['id']}/content")
        assert refused.status == 400


async def upload(demo: Provider, content: bytes) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", content, filename="a.jsonl")
    listing: dict[str, Any] = (await demo.call("POST", "/v1/files", data=form)).json()
    return listing


async def test_files_are_listed_fetched_and_deleted() -> None:
    async with provider() as demo:
        first, second = await upload(demo, b"one\n"), await upload(demo, b"two\n")
        listed = (await demo.call("GET", "/v1/files")).json()
        assert [item["id"] for item in listed["data"]] == [second["id"], first["id"]]
        path = f"/v1/files/{first['id']}"
        assert (await demo.call("GET", path)).json() == first
        assert (await demo.call("GET", f"{path}/content")).body == b"one\n"
        assert (await demo.call("DELETE", path)).json()["deleted"] is True
        assert (await demo.call("GET", path)).status == 404


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"not a part"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
    ],
)
async def test_a_broken_upload_is_a_400(content_type: str, body: bytes) -> None:
    async with provider() as demo:
        answer = await demo.call(
            "POST", "/v1/files", data=body, headers={"content-type": content_type}
        )
        assert answer.status == 400
        assert answer.json()["error"]["message"]


async def test_a_batch_is_recorded_for_a_file_that_exists() -> None:
    async with provider() as demo:
        wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        refused = await demo.post("/v1/batches", {**wanted, "input_file_id": "file-none"})
        assert refused.status == 404
        file = await upload(demo, b"{}\n")
        batch = (await demo.post("/v1/batches", {**wanted, "input_file_id": file["id"]})).json()
        assert batch["status"] == "validating"
        assert (await demo.call("GET", f"/v1/batches/{batch['id']}")).json() == batch
        assert (await demo.call("GET", "/v1/batches")).json()["data"] == [batch]


async def test_gemini_uploads_resume_in_pieces() -> None:
    async with provider() as demo:
        start = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-type": "text/plain",
        }
        begun = await demo.call("POST", "/gemini/upload/v1beta/files", b"{}", headers=start)
        url = begun.headers["x-goog-upload-url"]
        path = url.removeprefix(f"http://127.0.0.1:{demo.port}")
        more = {"x-goog-upload-command": "upload"}
        first = await demo.call("POST", path, b"hello ", headers=more)
        assert first.headers["x-goog-upload-status"] == "active"
        last = {"x-goog-upload-command": "upload, finalize"}
        done = await demo.call("POST", path, b"world", headers=last)
        file = done.json()["file"]
        assert done.headers["x-goog-upload-status"] == "final"
        assert (file["sizeBytes"], file["mimeType"]) == ("11", "text/plain")
        digest = base64.b64decode(file["sha256Hash"]).decode()
        assert digest == hashlib.sha256(b"hello world").hexdigest()
        assert (await demo.call("GET", f"/gemini/v1beta/{file['name']}")).json() == file
        assert (await demo.call("GET", "/gemini/v1beta/files")).json() == {"files": [file]}
        assert (await demo.call("DELETE", f"/gemini/v1beta/{file['name']}")).status == 200
        assert (await demo.call("GET", f"/gemini/v1beta/{file['name']}")).status == 403
        assert (await demo.call("POST", path, b"late", headers=last)).status == 404


async def test_a_generated_image_is_a_real_png() -> None:
    async with provider() as demo:
        body = {"model": "demo", "prompt": "a cat", "n": 2}
        document = (await demo.post("/v1/images/generations", body)).json()
        first, second = (base64.b64decode(item["b64_json"]) for item in document["data"])
        assert first != second
        assert first.startswith(b"\x89PNG\r\n\x1a\n")
        data = re.search(rb"IDAT(.*)....\x00\x00\x00\x00IEND", first, re.DOTALL)
        assert data is not None
        assert len(zlib.decompress(data[1])) == 4
        assert document["usage"]["output_tokens"] == 544


async def test_speech_is_a_wav_file_sent_in_pieces_and_can_be_transcribed() -> None:
    async with provider() as demo:
        body = {"model": "demo+pace=0", "voice": "alloy", "input": "good morning to everyone"}
        spoken = await demo.post("/v1/audio/speech", body)
        assert spoken.headers["content-type"] == "audio/wav"
        assert spoken.headers["transfer-encoding"] == "chunked"
        assert spoken.body[:4] == b"RIFF"
        assert struct.unpack("<I", spoken.body[4:8])[0] == len(spoken.body) - 8

        def form(**fields: str) -> aiohttp.FormData:
            made = aiohttp.FormData()
            for name, value in {"model": "demo+pace=0", **fields}.items():
                made.add_field(name, value)
            made.add_field("file", spoken.body, filename="a.wav")
            return made

        path = "/v1/audio/transcriptions"
        heard = (await demo.call("POST", path, data=form())).json()
        assert str(len(spoken.body)) in heard["text"]
        assert heard["usage"]["input_token_details"]["audio_tokens"] > 0
        plain = await demo.call("POST", path, data=form(response_format="text"))
        assert plain.body.decode().strip() == heard["text"]
        streamed = await demo.call("POST", path, data=form(stream="true"))
        events = [orjson.loads(data) for _, data in frames(streamed.body)]
        joined = "".join(event["delta"] for event in events[:-1])
        assert joined == events[-1]["text"] == heard["text"]


async def test_models_are_listed_in_each_shape() -> None:
    async with provider() as demo:
        openai = (await demo.call("GET", "/v1/models")).json()
        assert [model["id"] for model in openai["data"]] == ["demo", "demo-embed"]
        one = await demo.call("GET", "/v1/models/demo+status=500")
        assert one.json()["id"] == "demo+status=500"
        anthropic = (await demo.call("GET", "/anthropic/v1/models")).json()
        assert (anthropic["first_id"], anthropic["has_more"]) == ("demo", False)
        assert anthropic["data"][0]["type"] == "model"
        gemini = (await demo.call("GET", "/gemini/v1beta/models")).json()
        assert gemini["models"][0]["name"] == "models/demo"


async def test_any_model_name_answers_so_the_demo_can_stand_in_for_any_provider() -> None:
    async with provider() as demo:
        answer = await demo.post("/v1/chat/completions", CHAT.body("gpt-4o+tokens=5", "x", False))
        assert answer.json()["model"] == "gpt-4o+tokens=5"
        assert answer.json()["usage"]["completion_tokens"] == 5
