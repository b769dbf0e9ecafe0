"""A system under measurement, in its own process: JSON calls on stdin, answers on stdout.

Two systems in one process would each wait for the threads that the other keeps spinning.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxstyle import JaxstyleError


class MeasurementError(JaxstyleError):
    """The reason why something cannot be measured: a failed call, or systems that disagree."""


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
            MeasurementError: the call failed, with a traceback on stderr, or the process has ended.
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
            raise MeasurementError(f"a worker ended with code {self._process.wait()}")
        reply = json.loads(answer)
        if "error" in reply:
            raise MeasurementError(reply["error"])
        return reply["value"]

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Let the process end and wait for it."""
        self._process.communicate()


def seconds_of(call: Callable[[], object], count: int = 1) -> float:
    """Return the mean seconds of `count` calls in a row."""
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


class Trace:
    """The losses of a run as they come, with the evaluations and seconds so far."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.evaluations: list[int] = []
        self.seconds: list[float] = []
        self._started = time.perf_counter()

    def add(self, loss: float, evaluations: int = 1) -> None:
        """Add the loss found by `evaluations` more evaluations."""
        self.losses.append(loss)
        self.evaluations.append(evaluations + (self.evaluations or [0])[-1])
        self.seconds.append(time.perf_counter() - self._started)

    def told(self, compile_seconds: float) -> dict[str, Any]:
        """Return the run as a worker answers it."""
        told = {"losses": self.losses, "evaluations": self.evaluations, "seconds": self.seconds}
        return told | {"compile_seconds": compile_seconds}


def peak_resident() -> int:
    """Return the peak resident memory of this process in bytes."""
    # Linux reports it for the current program; getrusage also counts memory from the parent's fork.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        return int(kilobytes) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
