"""Wire formats, sans-io: bytes in, values out. No HTTP, no clock, no config."""
