"""Runs samples of the documentation, one after the other, and prints what each of them printed.

Python: a list of texts comes as JSON on standard input, a list of outputs goes out. Each runs as a
program of its own would, but for the packages, which are loaded once. What one raises is what it
printed.
"""

import contextlib
import io
import sys
import traceback

import msgspec


def main() -> None:
    outputs = []
    for text in msgspec.json.decode(sys.stdin.buffer.read(), type=list[str]):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(text, "sample", "exec"), {"__name__": "__main__"})
            except Exception:  # noqa: BLE001 - whatever it is, it is what came of the sample
                print(traceback.format_exc())  # noqa: T201
        outputs.append(printed.getvalue())
    sys.stdout.buffer.write(msgspec.json.encode(outputs))


if __name__ == "__main__":
    main()
