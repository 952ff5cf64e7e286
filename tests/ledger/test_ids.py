import os
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.ids import id_source, new_id, to_bytes, to_text


def test_an_id_is_a_uuid_of_version_7_that_carries_the_time() -> None:
    before = time.time_ns() // 1_000_000
    text = id_source()()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= after


def test_ids_differ_and_sort_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(50_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)


@given(st.lists(st.integers(min_value=0, max_value=2**47), min_size=2, max_size=200))
def test_ids_stay_in_order_whatever_the_clock_does(moments_ms: list[int]) -> None:
    clock = iter(moments_ms)
    source = id_source(lambda: next(clock) * 1_000_000)
    made = [source() for _ in moments_ms]
    assert made == sorted(set(made))


def test_a_spent_millisecond_borrows_the_next() -> None:
    source = id_source(lambda: 5_000_000, lambda size: b"\xff" * size)
    last = source()
    assert uuid.UUID(last).int >> 80 == 5
    # 2^29 ids are too many to make here: put the closure's own count near the end of its room.
    cells = dict(zip(source.__code__.co_freevars, source.__closure__ or (), strict=True))
    cells["low"].cell_contents = (0b10 << 62) | ((1 << 62) - (1 << 43))
    for _ in range(3000):
        made = source()
        assert made > last
        assert uuid.UUID(made).variant == uuid.RFC_4122
        last = made
    assert uuid.UUID(last).int >> 80 == 6


def test_a_forked_child_does_not_repeat_its_parents_ids() -> None:
    source = id_source(lambda: 5_000_000)
    source()
    source()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, source().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 36).decode() != source()
    os.close(reading)
    os.close(writing)


@given(st.binary(min_size=16, max_size=16))
def test_text_and_bytes_of_an_id_are_the_same_id(raw: bytes) -> None:
    assert to_bytes(to_text(raw)) == raw
    assert to_text(raw) == str(uuid.UUID(bytes=raw))


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 36, "0" * 32, "01a1fd13-fb96-7264-9405-a1fcbbabbdeg", "é" * 36]
)
def test_what_is_not_an_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        to_bytes(text)
