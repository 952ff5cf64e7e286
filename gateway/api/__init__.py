"""The gateway's own endpoints for callers and operators: receipts, models, health, metrics.

Thin handlers on aiohttp's ordinary path, over the ledger, the catalog and the proxy's services.
No call here reaches an upstream. Used by `app.py`.
"""
