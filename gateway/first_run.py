"""What a first start prints: an admin, the way to the pages, a key, a call to paste."""

import os
from typing import TextIO

from gateway.accounts.accounts import Accounts
from gateway.accounts.sign_in import SignIn
from gateway.config import BUILTIN_DEMO, Config

USER = "demo"
CREDIT_NANO_USD = 10 * 10**9
"""Ten dollars, enough for tens of thousands of calls of the built-in upstream."""

_PAGES = """
The dashboard, through a link that sets your password, once and within 24 hours (another one:
gateway users link {user}):

    {site}/dashboard/welcome#{link}
"""


async def greet(
    accounts: Accounts, sign_in: SignIn, config: Config, where: str, out: TextIO
) -> None:
    """On a store without users: make an admin with credit, a key and a one-time link; print them.

    `where` is the gateway's own URL, or the path of its socket. Nothing happens where a user
    exists, or where no built-in upstream is configured to call.
    """
    demo = [name for name, one in config.providers.items() if one.base_url == BUILTIN_DEMO]
    if accounts.list_users() or not demo or "JOURNAL_STREAM" in os.environ:
        return  # a service's output is kept in the journal: no place for a key
    await accounts.create_user(USER, admin=True)
    await accounts.credit(USER, CREDIT_NANO_USD, idempotency_key="first-run")
    _, key = await accounts.create_key(USER)
    pages = ""
    if config.dashboard.enabled:
        link, _ = await sign_in.make_link(USER)
        pages = _PAGES.format(site=_site(config, where), user=USER, link=link)
    if not where.startswith("http"):
        where = f"--unix-socket {where} http://localhost"
    print(
        f"""
First start: made user "{USER}", an admin, with 10.00 US dollars of credit for the built-in
upstream, and a key, which is shown this once:

    {key}
{pages}
Try it (the model "demo" is served by the gateway itself, no provider key is needed):

    curl -i {where}/v1/chat/completions \\
      -H "Authorization: Bearer {key}" \\
      -H "Content-Type: application/json" \\
      -d '{{"model":"demo","messages":[{{"role":"user","content":"Say hello"}}]}}'

The X-AIBADGR-Receipt-URL of the answer is its receipt:

    curl {where}/v1/receipts -H "Authorization: Bearer {key}"
""",
        file=out,
        flush=True,
    )


def _site(config: Config, where: str) -> str:
    """What a link begins with; nothing where browsers have no way in that is known here."""
    return config.dashboard.public_url or (where if where.startswith("http") else "")
