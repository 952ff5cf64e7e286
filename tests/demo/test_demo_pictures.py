"""The demo looks at pictures, says what it sees, and refuses what its provider would refuse."""

import base64
from collections.abc import Callable
from typing import Any

import demo_pictures
import pytest
from demo_provider import CHAT, GEMINI, MESSAGES, RESPONSES, Answered, Format, Provider, provider
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.images import Picture, decoded, look, sentence

KINDS: dict[str, tuple[Callable[[int, int], bytes], str]] = {
    "png": (demo_pictures.png, "image/png"),
    "gif": (demo_pictures.gif, "image/gif"),
    "jpeg": (demo_pictures.jpeg, "image/jpeg"),
    "webp lossy": (demo_pictures.webp_lossy, "image/webp"),
    "webp lossless": (demo_pictures.webp_lossless, "image/webp"),
    "webp extended": (demo_pictures.webp_extended, "image/webp"),
    "heic": (demo_pictures.heic, "image/heic"),
}
URL = "https://pictures.example/cat.png"
PNG = base64.b64encode(demo_pictures.png(3, 2)).decode()
GIF = base64.b64encode(demo_pictures.gif(3, 2)).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_picture_is_read_from_its_file(kind: str) -> None:
    make, media_type = KINDS[kind]
    assert look(make(640, 33)) == Picture(media_type, 640, 33)
    assert sentence(Picture(media_type, 640, 33)) == f"I see an {media_type} of 640 x 33 pixels."


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_short_is_none_or_still_the_same(kind: str) -> None:
    make, media_type = KINDS[kind]
    whole = make(640, 33)
    found = [look(whole[:length]) for length in range(len(whole))]
    assert found[0] is None
    assert set(found) <= {None, Picture(media_type, 640, 33)}


@given(st.binary(max_size=60), st.sampled_from([make(9, 9)[:12] for make, _ in KINDS.values()]))
def test_no_bytes_break_the_looking(data: bytes, opening: bytes) -> None:
    look(data)
    look(opening + data)


@pytest.mark.parametrize("text", ["", "A", "AA=A", "data:AAAA", "AA AA", "ÄÄÄÄ"])
def test_what_is_no_base64_is_not_read(text: str) -> None:
    assert decoded(text) is None


def of_data(fmt: Format, media_type: str, data: str) -> dict[str, Any]:
    url = f"data:{media_type};base64,{data}"
    parts: dict[str, dict[str, Any]] = {
        "openai_chat": {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        "openai_responses": {"type": "input_image", "image_url": url, "detail": "low"},
        "anthropic_messages": {
            "type": "image",
            "source": {"type": "base64", "media_type": media_type, "data": data},
        },
        "gemini": {"inline_data": {"mime_type": media_type, "data": data}},
    }
    return parts[fmt.name]


def of_url(fmt: Format, url: str) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {
        "openai_chat": {"type": "image_url", "image_url": {"url": url}},
        "openai_responses": {"type": "input_image", "image_url": url},
        "anthropic_messages": {"type": "image", "source": {"type": "url", "url": url}},
        "gemini": {"fileData": {"mimeType": "image/png", "fileUri": url}},
    }
    return parts[fmt.name]


async def show(demo: Provider, fmt: Format, *parts: Any, role: str = "user") -> Answered:
    """Ask about pictures, in a turn of their own."""
    if fmt is GEMINI:
        body: dict[str, Any] = {"contents": [{"role": role, "parts": list(parts)}]}
    else:
        body = fmt.body("demo", "", False)
        body["input" if fmt is RESPONSES else "messages"] = [
            {"role": role, "content": list(parts)},
        ]
    return await demo.post(fmt.path("demo", False), body)


def message(answer: Answered) -> str:
    found: str = answer.json()["error"]["message"]
    return found


in_every_format = pytest.mark.parametrize("fmt", [CHAT, RESPONSES, MESSAGES, GEMINI], ids=str)


@in_every_format
async def test_what_is_seen_is_said_in_order(fmt: Format) -> None:
    jpeg = base64.b64encode(demo_pictures.jpeg(8, 9)).decode()
    async with provider() as demo:
        parts = (of_data(fmt, "image/png", PNG), of_data(fmt, "image/jpeg", jpeg))
        answer = await show(demo, fmt, *parts, of_url(fmt, URL))
        assert answer.status == 200, answer.body
        said = fmt.read_document(answer.json()).text
    assert said.startswith(
        "I see an image/png of 3 x 2 pixels. I see an image/jpeg of 8 x 9 pixels. "
        f"I would look at the image at {URL} ."
    )


@in_every_format
@pytest.mark.parametrize(
    ("media_type", "data"),
    [("image/png", "????"), ("image/png", "AAAA"), ("image/bmp", PNG), ("image/png", "")],
)
async def test_what_is_no_picture_is_refused(fmt: Format, media_type: str, data: str) -> None:
    async with provider() as demo:
        answer = await show(demo, fmt, of_data(fmt, media_type, data))
        assert answer.status == 400
        fitting = {
            "openai_chat": ("image", "MIME"),
            "openai_responses": ("image", "MIME"),
            "anthropic_messages": ("base64", "Could not process image", "image/webp"),
            "gemini": ("Base64", "process input image", "Unsupported MIME type: image/bmp"),
        }
        assert any(word in message(answer) for word in fitting[fmt.name]), message(answer)


BAD_SHAPES: list[tuple[Format, dict[str, Any], str]] = [
    (CHAT, {"type": "image_url", "image_url": URL}, "image_url': expected an object"),
    (CHAT, {"type": "image_url"}, "Missing required parameter: 'messages[0].content[0].image_url"),
    (CHAT, {"type": "image_url", "image_url": {"url": "cat.png"}}, "Invalid image URL"),
    (CHAT, {"type": "image_url", "image_url": {"url": URL, "detail": "most"}}, "'most'"),
    (RESPONSES, {"type": "input_image", "image_url": {"url": URL}}, "expected a string"),
    (RESPONSES, {"type": "input_image", "image_url": "cat.png"}, "Expected a valid URL"),
    (RESPONSES, {"type": "input_image"}, "Missing required parameter"),
    (MESSAGES, {"type": "image", "source": {"type": "url", "url": "http://a.example"}}, "HTTPS"),
    (MESSAGES, {"type": "image", "source": {"type": "data", "data": PNG}}, "expected tags"),
    (MESSAGES, {"type": "image"}, "image.source: Field required"),
    (MESSAGES, {"type": "image", "source": {"type": "url"}}, "source.url.url: Field required"),
    (
        MESSAGES,
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
        "using the image/jpeg media type, but the image appears to be a image/png image",
    ),
    (
        MESSAGES,
        {"type": "image", "source": {"type": "url", "url": URL, "detail": "low"}},
        "messages.0.content.0.image.source.url.detail: Extra inputs are not permitted",
    ),
    (GEMINI, {"inlineData": {"data": PNG}}, "mime_type is not specified"),
    (GEMINI, {"inlineData": {"mimeType": "image/gif", "data": GIF}}, "Unsupported MIME type"),
    (GEMINI, {"inlineData": {"mimeType": "image/png", "url": URL}}, 'Unknown name "url"'),
    (GEMINI, {"fileData": {"mimeType": "image/png"}}, "file_uri is not specified"),
    (GEMINI, {"fileData": {"fileUri": "cat.png"}}, "unsupported file uri"),
    (GEMINI, {"text": "x", **of_url(GEMINI, URL)}, "oneof field 'data' is already set"),
]


@pytest.mark.parametrize(("fmt", "part", "told"), BAD_SHAPES)
async def test_a_picture_of_another_formats_shape_is_refused(
    fmt: Format, part: dict[str, Any], told: str
) -> None:
    async with provider() as demo:
        answer = await show(demo, fmt, part)
        assert answer.status == 400
        assert told in message(answer)


@pytest.mark.parametrize("fmt", [CHAT, MESSAGES], ids=str)
async def test_only_users_show_pictures(fmt: Format) -> None:
    async with provider() as demo:
        answer = await show(demo, fmt, of_data(fmt, "image/png", PNG), role="assistant")
        assert answer.status == 400
        assert "image" in message(answer)
        assert "user" in message(answer)
