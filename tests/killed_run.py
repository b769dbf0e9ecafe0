"""A run on the real weights, killed at random moments until it is done.

    python -m tests.killed_run [--size 512] [--kills 10] [--least 20] [--most 60] [FLAG ...]

It must end with the picture of a run that nothing has killed. Further flags are of `stylize`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="512")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--least", type=float, default=20, help="seconds from a start to its kill")
    parser.add_argument("--most", type=float, default=60)
    arguments, flags = parser.parse_known_args()
    moments = random.Random(0)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxstyle", "stylize", IMAGES / "chelsea.jpg"]
        command += [IMAGES / "starry_night.jpg", "--size", arguments.size, "--quiet", *flags]

        def start(name: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, "--workdir", f"{folder}/{name}"], env=environment)

        reached: list[int] = []
        for _ in range(arguments.kills):
            process = start("killed")
            seconds = moments.uniform(arguments.least, arguments.most)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            else:
                sys.exit(f"the run ended after {len(reached)} kills; give it more --evaluations")
            saved = Path(folder, "killed", "checkpoint")
            steps = [int(path.name) for path in saved.glob("*") if path.name.isdecimal()]
            reached.append(max(steps, default=0))
        began = time.monotonic()
        codes = [start(name).wait() for name in ("killed", "whole")]
        killed, whole = (Path(folder, name) for name in ("killed", "whole"))
        same = (killed / "image.png").read_bytes() == (whole / "image.png").read_bytes()
        seconds = round(time.monotonic() - began)
    print(json.dumps({"kills": reached, "codes": codes, "same": same, "seconds": seconds}))  # noqa: T201
    sys.exit(not same or any(codes))


if __name__ == "__main__":
    main()
