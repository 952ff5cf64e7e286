"""The table of control verbs: JSON arguments in, JSON result out.

`VERBS` is the one list of what an operator can do. The admin API and the local socket serve it, and
the command line calls it directly where no server runs, so all three do exactly the same. Results
never hold the text of a key or a code, save the answer of the verb that makes it.
"""

from typing import Any

from gateway.admin import (
    key_verbs,
    model_verbs,
    money_verbs,
    provider_verbs,
    receipt_verbs,
    user_verbs,
)
from gateway.admin.context import BadArguments, Context, UnknownVerb, Verb

__all__ = ["VERBS", "BadArguments", "Context", "UnknownVerb", "Verb"]

VERBS: dict[str, Verb[Any]] = {
    verb.name: verb
    for verbs in (
        user_verbs.VERBS,
        key_verbs.VERBS,
        money_verbs.VERBS,
        provider_verbs.VERBS,
        model_verbs.VERBS,
        receipt_verbs.VERBS,
    )
    for verb in verbs
}
