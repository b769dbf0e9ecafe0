"""The command `scripts/resolution_tables`."""

import sys

from measuring.command import run
from resolution.memory import memory
from resolution.scales import scales
from resolution.sizes import sizes

if __name__ == "__main__":
    sys.exit(run("scripts/resolution_tables", (scales, sizes, memory)))
