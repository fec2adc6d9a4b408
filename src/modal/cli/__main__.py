"""`python -m modal.cli`, where the command `modal` is not on the path."""

from modal.cli import main

main()
