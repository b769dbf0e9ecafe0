"""Entry point of `python -m jaxstyle`."""

from jaxstyle.cli import main

main()
