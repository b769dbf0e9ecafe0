"""Entry point of `python -m jaxstyle.cli`."""

from jaxstyle.cli.app import main

main()
