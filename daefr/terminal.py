"""Lines for people, on a terminal that may show a progress bar as well."""

import sys

from tqdm import tqdm


def write_line(line: str) -> None:
    """Write a line to standard error, with what is no printable text escaped, as names of files may be."""
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    encoding = sys.stderr.encoding or "ascii"
    tqdm.write(printable.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def count_faces(number: int) -> str:
    """Return a number of faces in words."""
    return f"{number or 'no'} face{'' if number < 2 else 's'}"
