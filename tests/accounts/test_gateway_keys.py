"""A gateway key tells a typo from an unknown key, and shows nothing of itself."""

import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts import keys

prefixes = st.from_regex(r"[A-Za-z0-9]{1,16}[-_]", fullmatch=True)


@given(prefixes)
def test_a_minted_key_has_the_documented_shape_and_passes_its_own_check(prefix: str) -> None:
    text = keys.mint(prefix)
    assert re.fullmatch(re.escape(prefix) + r"[0-9A-Za-z]{34}", text)
    assert keys.looks_like(prefix, text)
    assert keys.check(prefix, text) == "ok"


@given(st.data())
def test_any_single_character_change_is_a_malformed_key(data: st.DataObject) -> None:
    text = keys.mint("gw-")
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(
        st.one_of(st.sampled_from(string.ascii_letters + string.digits), st.characters())
    )
    changed = text[:at] + other + text[at + 1 :]
    assert keys.check("gw-", changed) == ("ok" if changed == text else "malformed")


@given(st.data())
def test_two_neighbours_swapped_are_a_malformed_key(data: st.DataObject) -> None:
    text = keys.mint("gw-")
    at = data.draw(st.integers(0, len(text) - 2))
    changed = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    assert keys.check("gw-", changed) == ("ok" if changed == text else "malformed")


@given(st.data())
def test_a_key_cut_short_or_grown_is_malformed(data: st.DataObject) -> None:
    text = keys.mint("gw-")
    assert keys.check("gw-", text[: data.draw(st.integers(0, len(text) - 1))]) == "malformed"
    assert keys.check("gw-", text + data.draw(st.text(min_size=1, max_size=8))) == "malformed"


@given(st.text(max_size=60))
def test_arbitrary_text_is_judged_and_never_raises(text: str) -> None:
    assert keys.check("gw-", text) == "malformed"
    assert keys.check("gw-", "gw-" + text) == "malformed"


def test_a_key_of_one_prefix_is_malformed_under_another() -> None:
    text = keys.mint("gw-")
    assert keys.check("ab-", text) == "malformed"
    assert keys.check("ab-", "ab-" + text[3:]) == "malformed"


def test_minted_keys_do_not_repeat_and_use_the_whole_alphabet() -> None:
    minted = {keys.mint("gw-") for _ in range(500)}
    assert len(minted) == 500
    assert set().union(*(key[3:31] for key in minted)) == set(keys.ALPHABET)


def test_the_random_part_has_at_least_160_bits() -> None:
    assert len(keys.ALPHABET) ** keys.RANDOM_CHARS >= 2**160
    assert len(keys.ALPHABET) ** keys.CHECKSUM_CHARS >= 2**32


def test_the_checksum_is_pinned_so_that_issued_keys_stay_valid() -> None:
    # Worked by hand: crc32(b"gw-" + b"0" * 28) in base62, most significant digit first.
    rest, digits = zlib.crc32(b"gw-" + b"0" * 28), ""
    while rest:
        rest, digit = divmod(rest, 62)
        digits = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[digit] + digits
    assert keys.check("gw-", "gw-" + "0" * 28 + digits.rjust(6, "0")) == "ok"


def test_the_hash_depends_on_the_secret_and_on_every_byte_of_the_key() -> None:
    one, other = b"1" * 32, b"2" * 32
    assert keys.hash_key(one, b"gw-a") == keys.hash_key(one, b"gw-a")
    assert len(keys.hash_key(one, b"gw-a")) == 32
    assert keys.hash_key(one, b"gw-a") != keys.hash_key(other, b"gw-a")
    assert keys.hash_key(one, b"gw-a") != keys.hash_key(one, b"gw-b")


def test_a_hint_shows_four_characters_and_no_more() -> None:
    text = keys.mint("gw-")
    assert keys.hint("gw-", text) == text[:7]


def test_a_secret_longer_than_blake2b_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="key"):
        keys.hash_key(b"x" * 65, b"gw-a")
