"""`python -m gateway` is the `scooter` command."""

from gateway.cli import main

main()
