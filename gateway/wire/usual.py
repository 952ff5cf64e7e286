"""What makes a request or an answer a usual one, to the writers that have a shorter way for it.

Plain text and settings that are one value each. Used by the `*_usual` modules of the formats;
pure.
"""

from collections.abc import Sequence

from gateway.wire.conversation import Block, Feature, Request, Text

_PLAIN: frozenset[Feature] = frozenset(("max_output_tokens", "temperature", "top_p", "top_k"))


def is_plain(request: Request) -> bool:
    """Tell whether a request asks for nothing but an answer to what is said, with the settings that
    are one value each. Features may be spelled without a field, and fields have a value of no
    effect without being a feature in use.
    """
    return (
        request.spelled.keys() <= _PLAIN
        and not (request.tools or request.stop or request.metadata)
        and request.choices == 1
        and request.output is None
        and request.reasoning is None
        and request.seed is None
        and request.frequency_penalty is None
        and request.presence_penalty is None
        and request.top_logprobs is None
        and request.tool_choice is None
        and request.parallel_tool_calls is None
        and request.user is None
    )


def texts_of(blocks: Sequence[Block]) -> list[str]:
    """The texts of blocks that are nothing else, none of them empty; otherwise an empty list."""
    texts = []
    for block in blocks:
        if type(block) is not Text or not block.text:
            return []
        if block.cache is not None or block.signature is not None:
            return []
        texts.append(block.text)
    return texts
