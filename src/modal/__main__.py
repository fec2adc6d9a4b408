"""`python -m modal`."""

from modal.cli import main

main()
