"""Streamed calls of every format, as the tests of failing upstreams make them."""

CHAT = b'{"model":"gpt-4o","messages":[]}'
SHORT = "connect_seconds = 1\nfirst_byte_seconds = 0.3\nidle_seconds = 0.3"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE = CHUNKED % b"text/event-stream"


class Stream:
    """A streamed call of one format: its request, its first events, its proper end."""

    def __init__(self, target: str, body: bytes, opening: bytes, kind: bytes, marks: bytes) -> None:
        self.target = target
        self.body = body
        self.opening = opening
        self.head = CHUNKED % kind
        self.terminal = marks


STREAMS = {
    "chat": Stream(
        "/v1/chat/completions",
        b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":{"include_usage":true}}',
        b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
        b"text/event-stream",
        b"[DONE]",
    ),
    "responses": Stream(
        "/v1/responses",
        b'{"model":"gpt-4o","stream":true,"input":"x"}',
        b'event: response.created\ndata: {"type":"response.created","sequence_number":0,'
        b'"response":{"id":"resp_1","status":"in_progress"}}\n\n'
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
        b'"sequence_number":7,"delta":"Hel"}\n\n',
        b"text/event-stream",
        b"response.completed",
    ),
    "messages": Stream(
        "/v1/messages",
        b'{"model":"claude-sonnet-4-5","stream":true,"max_tokens":10,"messages":[]}',
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":'
        b'{"input_tokens":12,"output_tokens":1}}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"Hel"}}\n\n',
        b"text/event-stream",
        b"message_stop",
    ),
    "gemini": Stream(
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        b'{"contents":[]}',
        b'data: {"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}\r\n\r\n',
        b"text/event-stream",
        b"finishReason",
    ),
    "array": Stream(
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        b'{"contents":[]}',
        b'[{"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}\n',
        b"application/json",
        b"finishReason",
    ),
}
