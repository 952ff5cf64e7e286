"""How much a key or a user may ask for at once and per minute. Knows no clock and no HTTP."""
