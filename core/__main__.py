"""`python -m supervm` is the command `supervm`."""

from supervm.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
