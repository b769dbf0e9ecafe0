"""A system under measurement, in its own process: JSON calls on stdin, answers on stdout.

Two systems in one process would each wait for the threads that the other keeps spinning.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import Any


class BenchmarkError(Exception):
    """The reason why a section cannot be measured: a failed call, or systems that disagree."""


class Worker:
    """The parent's end of a worker process: `worker.call("function", **arguments)`."""

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
        """Call a function of the system and return its value.

        Raises:
            BenchmarkError: the call failed, with a traceback on stderr, or the process has ended.
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
        reply = json.loads(answer)
        if "error" in reply:
            raise BenchmarkError(reply["error"])
        return reply["value"]

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Let the process end and wait for it."""
        self._process.communicate()


def _serve(module: str) -> None:
    # Output of libraries must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    system = importlib.import_module(module)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        try:
            reply = {"value": getattr(system, function)(**arguments)}
        except Exception as error:
            traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            reply = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
