"""Users and the keys issued to them: an in-memory snapshot over the store."""
