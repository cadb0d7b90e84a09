"""The whole pipeline as a script: `python pipelines/full.py`, or `ray job submit ... -- python pipelines/full.py`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project instead of this folder
    from pipelines.commands import main

    sys.exit(main(["full", *sys.argv[1:]]))
