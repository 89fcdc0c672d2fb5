"""`python -m pynanochat COMMAND` is the `pynanochat COMMAND` script."""

from pynanochat.cli import main

if __name__ == "__main__":
    main()
