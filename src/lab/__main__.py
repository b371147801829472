"""`python -m lab` is `lab` of this Python."""

from lab.engine.cli import main

main()
