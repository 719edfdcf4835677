"""`python -m illustrious` is `illustrious`."""

from illustrious.cli import main

main()
