"""What a first start prints: a user, a key with demo credit, and a call that works when pasted."""

import os
from typing import TextIO

from gateway.accounts.accounts import Accounts
from gateway.config import BUILTIN_DEMO, Config

USER = "demo"
CREDIT_NANO_USD = 10 * 10**9
"""Ten dollars, enough for tens of thousands of calls of the built-in upstream."""


async def greet(accounts: Accounts, config: Config, base_url: str, out: TextIO) -> None:
    """On a store without users: make one, credit it, issue a key and print all of it, once.

    Nothing happens where a user exists, or where no built-in upstream is configured to call.
    """
    demo = [name for name, one in config.providers.items() if one.base_url == BUILTIN_DEMO]
    if accounts.list_users() or not demo or "JOURNAL_STREAM" in os.environ:
        return  # a service's output is kept in the journal: no place for a key
    await accounts.create_user(USER)
    await accounts.credit(USER, CREDIT_NANO_USD, idempotency_key="first-run")
    _, key = await accounts.create_key(USER)
    unix = not base_url.startswith("http")
    where = f"--unix-socket {base_url} http://localhost" if unix else base_url
    print(
        f"""
First start: made user "{USER}" with 10.00 US dollars of credit for the built-in upstream, and a
key, which is shown this once:

    {key}

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
