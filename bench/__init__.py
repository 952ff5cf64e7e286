"""Performance measurements: an upstream, a naive proxy, a load generator, and one table.

Nothing here is imported by the gateway. `python -m bench.run` (`make bench`) runs everything;
`README.md` says what each figure means and why the comparison is fair.
"""
