"""A system under measurement, in a process of its own: JSON calls on stdin, answers on stdout.

Of two systems in one process each would wait for the threads that the other keeps spinning.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import Any


class BenchmarkError(Exception):
    """What a section cannot be measured for: a call that failed, or systems that disagree."""


class Worker:
    """The parent's end: `worker.call("function", **arguments)`."""

    def __init__(self, module: str, **variables: str) -> None:
        command = [sys.executable, "-m", __name__, module]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )

    def call(self, function: str, **arguments: Any) -> Any:
        """The function's value.

        Raises:
            BenchmarkError: it failed, and said why on stderr, or the process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([function, arguments]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise BenchmarkError(f"a worker ended with code {self._process.wait()}")
        found = json.loads(answer)
        if "error" in found:
            raise BenchmarkError(found["error"])
        return found["value"]

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


def _serve(module: str) -> None:
    # Whatever a library prints must not get in between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    system = importlib.import_module(module)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        try:
            found = {"value": getattr(system, function)(**arguments)}
        except Exception as error:
            traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            found = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
