"""The parser of a command's options: its help is the module's docstring, and mistakes get a suggestion."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from daefr.files import expand_home


def suggest(word: str, valid: Sequence[str]) -> str:
    """Return what to write instead of an unknown word: the most similar valid one, or else all of them."""
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(valid)}"


class CommandParser(argparse.ArgumentParser):
    """Reports a mistake in one line, and suggests the option that was probably meant."""

    def __init__(self, prog: str, text: str) -> None:
        """Describe a command by a text whose line breaks are kept; its `Examples:` are shown after the options."""
        description, examples, lines = text.partition("Examples:\n")
        super().__init__(
            prog,
            description=description.strip(),
            epilog=examples + lines,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.register("type", Path, expand_home)  # the shell leaves --out=~/x alone

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; unknown options are reported first, as argparse would rather name a required one that is missing."""
        self._check_names(args or [])
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one line."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def _check_names(self, arguments: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in arguments:
            name = argument.partition("=")[0]
            if argument == "--":
                return
            if not argument.startswith("--") or any(option.startswith(name) for option in known):
                continue
            close = difflib.get_close_matches(name, known, n=1)
            self.error(f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else ""))
