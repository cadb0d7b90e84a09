"""The command `serve`."""

import argparse
from typing import TYPE_CHECKING

from pipelines.commands.command import Command

if TYPE_CHECKING:
    from pipelines.config import RunConfig
    from pipelines.serve.launch import ServiceLauncher


class ServeCommand(Command):
    """Serve a restoration model: a page, and `POST /restore`. Follows the model's alias without a restart.

    Examples:
      python -m pipelines serve
      python -m pipelines serve --model models:/daefr-restoration@champion --port 9000
      python -m pipelines serve --host 0.0.0.0 serve.token=token.txt

    """

    shortcuts = ("restore.model", "serve.host", "serve.port")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        parser.add_argument("--model", help="same as restore.model=MODEL")
        parser.add_argument("--host", help="same as serve.host=HOST")
        parser.add_argument("--port", type=int, help="same as serve.port=PORT")

    def run(self, config: "RunConfig", options: argparse.Namespace) -> list[str]:  # noqa: ARG002
        """See `Command`."""
        open_service(config).run()
        return ["stopped"]


def open_service(config: "RunConfig") -> "ServiceLauncher":
    """Return what starts the service of a configuration. Raises `UserError` for a token that is missing or unusable."""
    from pipelines.engine.run import open_tracking, open_workdir
    from pipelines.serve.launch import ServiceLauncher
    from pipelines.serve.token import token_digest

    token = token_digest(config.serve.token, config.serve.host)
    tracking = open_tracking(config.tracking, open_workdir(config.workdir), config.compute.unavailable_timeout_s)
    return ServiceLauncher(config.restore, config.serve, config.compute.serve, tracking, token)
