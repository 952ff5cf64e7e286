"""What a first start prints, and what that is good for."""

import io
import re
from pathlib import Path

import pytest

from gateway import config as cfg
from gateway import first_run
from gateway.accounts.accounts import Accounts
from gateway.accounts.sign_in import SignIn
from gateway.ledger.writer import Ledger

SECRET = bytes(range(32))
DEMO = '[providers.demo]\nformat = "all"\nbase_url = "builtin:demo"\n'


async def greeted(directory: Path, text: str, where: str) -> tuple[str, Accounts, SignIn, Ledger]:
    """What is printed, and the store that it is about; the ledger is the caller's to close."""

    def fail(exc: BaseException) -> None:
        raise AssertionError(exc)

    ledger = await Ledger.open(
        str(directory / "gateway.db"), secret=SECRET, durability="full", on_fatal=fail
    )
    accounts = await Accounts.load(ledger, SECRET, "gw-")
    sign_in = await SignIn.load(ledger, accounts, SECRET)
    out = io.StringIO()
    await first_run.greet(accounts, sign_in, cfg.parse(text), where, out)
    return out.getvalue(), accounts, sign_in, ledger


@pytest.fixture(autouse=True)
def _at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


async def test_it_makes_an_admin_with_credit_a_key_and_a_link_that_works_once(
    tmp_path: Path,
) -> None:
    printed, accounts, sign_in, ledger = await greeted(tmp_path, DEMO, "http://127.0.0.1:8000")
    (user,) = accounts.list_users()
    assert (user.name, user.admin, user.email) == ("demo", True, None)
    assert accounts.funds(user.id).balance == 10 * 10**9
    key = re.search(r"^    (gw-\w+)$", printed, re.MULTILINE)
    link = re.search(r"^    http://127\.0\.0\.1:8000/dashboard/welcome#(\S+)$", printed, re.M)
    assert key is not None
    assert link is not None
    found = accounts.identify(key[1].encode(), 0)
    assert found is not None
    assert not found.admin
    session = await sign_in.use_link(
        link[1], "correct horse battery", "me@example.org", "127.0.0.1", lifetime_ms=10**6
    )
    assert sign_in.session(session) is not None
    await ledger.close()
    # Once: the next start has nothing to say.
    printed, *_, ledger = await greeted(tmp_path, DEMO, "http://127.0.0.1:8000")
    assert printed == ""
    await ledger.close()


@pytest.mark.parametrize(
    ("text", "where", "line"),
    [
        (DEMO, "/run/gateway.sock", "    /dashboard/welcome#"),
        (DEMO + '[dashboard]\npublic_url = "https://llm.example.com"\n', "/run/gateway.sock",
         "    https://llm.example.com/dashboard/welcome#"),
        (DEMO + '[dashboard]\npublic_url = "https://llm.example.com"\n', "http://h:1",
         "    https://llm.example.com/dashboard/welcome#"),
    ],
)  # fmt: skip
async def test_the_link_begins_with_what_browsers_know(
    tmp_path: Path, text: str, where: str, line: str
) -> None:
    printed, *_, ledger = await greeted(tmp_path, text, where)
    await ledger.close()
    assert any(one.startswith(line) for one in printed.splitlines())


async def test_without_pages_no_link_is_printed(tmp_path: Path) -> None:
    printed, *_, ledger = await greeted(
        tmp_path, DEMO + "[dashboard]\nenabled = false\n", "http://127.0.0.1:8000"
    )
    await ledger.close()
    assert "gw-" in printed
    assert "dashboard" not in printed


async def test_nothing_is_made_where_its_output_would_be_kept_or_there_is_nothing_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, accounts, *_, ledger = await greeted(tmp_path, "", "http://h:1")
    assert (printed, accounts.list_users()) == ("", [])
    await ledger.close()
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    printed, accounts, *_, ledger = await greeted(tmp_path, DEMO, "http://h:1")
    assert (printed, accounts.list_users()) == ("", [])
    await ledger.close()
