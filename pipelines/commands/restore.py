"""The command `restore`."""

import argparse
import re
from typing import TYPE_CHECKING

from daefr.errors import UserError
from pipelines.commands.command import StepCommand

if TYPE_CHECKING:
    from pipelines.chain import Chain
    from pipelines.config import RunConfig

OVERRIDE = re.compile(r"[a-z_.0-9]+=")


class RestoreCommand(StepCommand):
    """Restore the images of a place with a trained model, and account for each in a manifest.

    Examples:
      python -m pipelines restore IN OUT
      python -m pipelines restore s3://bucket/photographs s3://bucket/restored --config mine.yaml
      python -m pipelines restore crops restored --aligned --model models:/daefr-restoration/3

    """

    name = "restore"
    shortcuts = ("restore.model", "restore.aligned", "restore.only_center_face")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        place = "a folder or s3://bucket/prefix"
        parser.add_argument("source", metavar="IN", help=f"{place} of images, or of tar files of images; or a tar file")
        parser.add_argument("target", metavar="OUT", help=f"{place} for the restored images and their manifest")
        parser.add_argument("--model", help="same as restore.model=MODEL")
        parser.add_argument("--aligned", action="store_true", help="same as restore.aligned=true")
        parser.add_argument("--only-center-face", action="store_true", help="same as restore.only_center_face=true")

    def resolve(self, options: argparse.Namespace) -> None:
        """See `Command`: overrides and places may come in any order; a place named a=b can be given as ./a=b."""
        given = [options.source, options.target, *options.overrides]
        places = [place for place in given if not OVERRIDE.match(place)]
        if len(places) != 2:
            raise UserError(f"give two places, IN and OUT; given: {', '.join(places) or 'none'}")
        options.source, options.target = places
        options.overrides = [override for override in given if OVERRIDE.match(override)]

    def check(self, config: "RunConfig", options: argparse.Namespace) -> None:
        """See `StepCommand`: what the stages need is not needed here."""

    def work(self, chain: "Chain", options: argparse.Namespace) -> list[str]:
        """See `StepCommand`."""
        return [chain.restore(options.source, options.target)]
