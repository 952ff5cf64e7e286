"""docs/matrix.md: a head written by hand, and a table with a row for each caller and provider.

A row is written by the test that saw it, and by nothing else: `hold` compares it with the page, or,
where `GATEWAY_WRITE_DOCS=1` is set, puts it there. Rows that were not run stay as they are; one
that has no place in the table any more goes.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/matrix.md"
MARK = "<!-- Below: written by tests/clients/test_every_model.py, not by hand. -->\n"
WRITE = "GATEWAY_WRITE_DOCS"

Key = tuple[str, str]
Row = Mapping[str, str]


def rows(page: str) -> dict[Key, Row]:
    """The rows of a page, by caller and provider; none where it has no table."""
    lines = [_cells(line) for line in page.partition(MARK)[2].splitlines() if line.startswith("|")]
    if len(lines) < 2:
        return {}
    (_, _, *columns), _, *found = lines
    return {
        (caller, provider): dict(zip(columns, cells, strict=True))
        for caller, provider, *cells in found
    }


def with_row(page: str, key: Key, row: Row, order: Sequence[Key]) -> str:
    """The page with this row, its table in `order` and with this row's columns."""
    known = {**rows(page), key: row}
    columns = list(row)
    lines = [_line(("caller", "provider", *columns)), _line(["---"] * (len(columns) + 2))]
    lines += [
        _line((*one, *known[one].values()))
        for one in order
        if one in known and list(known[one]) == columns
    ]
    head = page.partition(MARK)[0]
    return f"{head}{MARK}\n" + "".join(lines)


def hold(key: Key, row: Row, order: Sequence[Key], page: Path = PAGE) -> None:
    """Compare a row with the page's, or write it there."""
    if os.environ.get(WRITE) != "1":
        found = rows(page.read_text())
        assert found.get(key) == row, f"{WRITE}=1 writes {page.name}"
        assert list(found) == list(order)
        return
    with page.open("r+") as file:
        # Tests of other rows may be at it in other processes.
        fcntl.flock(file, fcntl.LOCK_EX)
        written = with_row(file.read(), key, row, order)
        file.seek(0)
        file.write(written)
        file.truncate()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
