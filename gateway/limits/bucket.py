"""One token bucket, in integers: what a limit per minute leaves at a moment.

A bucket holds at most one minute's limit and fills at limit/60 per second, so that a window of W
seconds admits at most limit + limit/60 × W, whatever the pattern of the calls. To hold that
strictly nothing here is a float: time is whole nanoseconds, and a bucket counts in parts so small
(`PARTS` to one request or token) that a nanosecond adds exactly `limit` of them.

Used by `limiter.py` alone. Times (`at`) are nanoseconds of one clock. A moment before the last one
seen adds nothing, and what a clock that goes back undid is not added again.
"""

NANOSECONDS_PER_MINUTE = 60_000_000_000

PARTS = NANOSECONDS_PER_MINUTE
"""Parts of one request or token: at `limit` per minute a nanosecond adds `limit` parts."""


class Bucket:
    """`level` is in parts, below 0 where more was used than was there; `at` is its moment."""

    __slots__ = ("at", "full", "level", "limit")

    def __init__(self, limit: int, at: int) -> None:
        """A full bucket of `limit` per minute. Raises ValueError where that is not above 0."""
        if limit < 1:
            raise ValueError(f"a limit per minute is 1 or more: {limit}")
        self.limit = limit
        self.full = self.level = limit * PARTS
        self.at = at

    def fill(self, at: int) -> int:
        """Add what has come in by `at`; the level in parts."""
        passed = at - self.at
        if passed > 0:
            self.at = at
            level = self.level + passed * self.limit
            self.level = level if level < self.full else self.full
        return self.level

    def change(self, limit: int, at: int) -> None:
        """Go on under another limit with what was used under the last one.

        A lower limit makes no debt: at worst the bucket is empty. Debt that there was stays.
        """
        if limit < 1:
            raise ValueError(f"a limit per minute is 1 or more: {limit}")
        used = self.full - self.fill(at)
        self.limit = limit
        self.full = limit * PARTS
        self.level = max(self.full - used, min(self.level, 0))

    def wait_ns(self, amount: int) -> int:
        """Nanoseconds until `amount` is there, or a full bucket where that is less."""
        missing = min(amount * PARTS, self.full) - self.level
        return -(-missing // self.limit) if missing > 0 else 0
