"""What a user, or a key, can still spend: a balance and what is held of it. Pure.

A hold is taken before a call is sent, for the most that it may cost, and counts against the
balance at once; so calls at the same time cannot overspend together. It ends in `settle` or
`release`, once. Nothing here awaits, and one thread calls it (the event loop's): checking and
taking are one step. Owned by `Accounts`; held and settled by the proxy.

With every hold an upper bound of its charge, `0 <= held <= balance` always. A charge beyond its
hold is charged in full, so a balance ends below zero by no more than the sum of
max(0, charged - held) over the calls.
"""

NO_CAP = 1 << 62
"""The balance that a key without a spending cap starts from: its user's balance bounds it."""


class Funds:
    """Integer nano-USD. `balance` is what is there, `held` what calls under way may still take."""

    __slots__ = ("balance", "held")

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance
        self.held = 0

    def __repr__(self) -> str:
        return f"Funds(balance={self.balance}, held={self.held})"

    @property
    def available(self) -> int:
        """What a further call may hold; below zero where more was charged than was held."""
        return self.balance - self.held

    def hold(self, nano_usd: int) -> bool:
        """Hold so much for a call. False, and nothing is held, where it is not there.

        Whoever has nothing left holds nothing, not even 0.
        """
        available = self.balance - self.held
        if available < nano_usd or available <= 0:
            return False
        self.held += nano_usd
        return True

    def more(self, nano_usd: int) -> bool:
        """Raise a hold by so much. False, and it stays what it was, where that is not there."""
        if self.balance - self.held < nano_usd:
            return False
        self.held += nano_usd
        return True

    def settle(self, held: int, charged: int) -> None:
        """End a call's hold of `held` and charge what it did cost."""
        self.held -= held
        self.balance -= charged

    def release(self, held: int) -> None:
        """End a call's hold, or a part of it, without a charge."""
        self.held -= held

    def deposit(self, nano_usd: int) -> None:
        """Add to the balance; below zero takes away from it."""
        self.balance += nano_usd
