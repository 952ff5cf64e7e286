"""`python -m gateway`, and the entry of `gateway.pyz`: the command of `cli.py`."""

import sys

from gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
