"""`python -m daefr` is the command line `daefr`."""

import sys

from daefr.cli import main

if __name__ == "__main__":
    sys.exit(main())
