"""`python -m golf.cli` is the `golf` command, also where nothing is installed."""

from golf.cli import main

main()
