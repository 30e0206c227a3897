"""`python -m kdbench.cli`."""

from kdbench.cli import main

main()
