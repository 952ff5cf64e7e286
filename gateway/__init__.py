"""An LLM API gateway: forwards byte-exact, meters, prices, and leaves an immutable receipt."""

__version__ = "0.1.0"
