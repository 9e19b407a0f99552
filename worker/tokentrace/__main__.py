"""`python -m tokentrace`."""

from .cli import main

main()
