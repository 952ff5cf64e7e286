"""The table of docs/matrix.md: a row is put in its place, and none stays that nobody saw."""

from pathlib import Path

import matrix_page
import pytest
from matrix_page import MARK, rows, with_row

ORDER = [("a", "x"), ("a", "y"), ("b", "x")]
HEAD = "# Title\n\n| a | table | of | the | head |\n\n"
YES = {"text": "yes", "error": "no, it stays"}


def test_rows_come_in_their_order_whatever_the_order_they_are_written_in() -> None:
    page = HEAD + MARK
    for key in reversed(ORDER):
        page = with_row(page, key, YES, ORDER)
    assert page.startswith(HEAD + MARK)
    assert list(rows(page)) == ORDER
    assert rows(page)["a", "y"] == YES
    again = with_row(page, ("a", "y"), YES, ORDER)
    assert again == page


def test_a_row_replaces_what_was_said_before_and_leaves_the_others() -> None:
    page = with_row(with_row(HEAD + MARK, ("a", "x"), YES, ORDER), ("b", "x"), YES, ORDER)
    other = {"text": "not any more", "error": "yes"}
    page = with_row(page, ("a", "x"), other, ORDER)
    assert rows(page) == {("a", "x"): other, ("b", "x"): YES}


def test_rows_of_other_columns_or_without_a_place_do_not_stay() -> None:
    page = with_row(HEAD + MARK, ("a", "x"), YES, ORDER)
    page = with_row(page, ("b", "x"), {"text": "yes", "usage": "yes"}, ORDER)
    assert list(rows(page)) == [("b", "x")]
    page = with_row(page, ("a", "y"), {"text": "yes", "usage": "yes"}, ORDER[:2])
    assert list(rows(page)) == [("a", "y")]


def test_a_row_that_the_page_does_not_have_is_a_failure_unless_it_is_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "matrix.md"
    page.write_text(HEAD + MARK)
    monkeypatch.delenv(matrix_page.WRITE, raising=False)
    for key in ORDER:
        with pytest.raises(AssertionError, match=matrix_page.WRITE):
            matrix_page.hold(key, YES, ORDER, page)
    assert page.read_text() == HEAD + MARK
    monkeypatch.setenv(matrix_page.WRITE, "1")
    for key in ORDER:
        matrix_page.hold(key, YES, ORDER, page)
    monkeypatch.delenv(matrix_page.WRITE)
    matrix_page.hold(ORDER[0], YES, ORDER, page)
    with pytest.raises(AssertionError):
        matrix_page.hold(ORDER[0], {**YES, "text": "no"}, ORDER, page)
    with pytest.raises(AssertionError):
        matrix_page.hold(ORDER[0], YES, ORDER[:2], page)
