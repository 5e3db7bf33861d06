"""A process whose verbs die: for each name on its standard input it forks, prepares that verb, and is killed in its middle.

Run as `python -m tests.ops.killed URL`. It says `prepared`, waits for a line, and says `died` when the fork is dead.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ops
from models.changes import OperatorWrite
from tests.ops.writes import EXAMPLES, SIGNS


def main(url: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _die_in(line.strip(), url)
        _, status = os.waitpid(child, 0)
        _say("died" if os.WIFSIGNALED(status) else f"ended with {status}")


def _die_in(verb: str, url: str) -> None:
    try:
        call = EXAMPLES[verb](ops.connect(url, operator="olga"))
        sign, left = OperatorWrite.audit, SIGNS.get(verb, 1)

        async def sign_and_die(write: OperatorWrite, *args: Any, **kwargs: Any) -> None:
            nonlocal left
            await sign(write, *args, **kwargs)
            left -= 1
            if not left:
                # Everything is written, and nothing is committed yet.
                os.kill(os.getpid(), signal.SIGKILL)

        OperatorWrite.audit = sign_and_die  # type: ignore[method-assign]
        _say("prepared")
        sys.stdin.readline()
        call()
    finally:
        os._exit(3)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
