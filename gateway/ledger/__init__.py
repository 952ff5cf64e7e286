"""Receipts, charges, prices, and the only SQL. Knows no HTTP server or client."""
