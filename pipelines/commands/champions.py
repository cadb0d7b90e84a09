"""The commands on champions, which read and change what MLflow has and execute no step."""

import json
from abc import abstractmethod
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from daefr.errors import UserError
from daefr.settings.base import STAGES
from pipelines.commands.command import Command

if TYPE_CHECKING:
    from pipelines.config import RunConfig
    from pipelines.tracking.client import Tracking
    from pipelines.tracking.promotions import ChampionChange


class ChampionCommand(Command):
    """A command on the champion of a stage, or on one version."""

    def run(self, config: "RunConfig", options: Namespace) -> list[str]:
        """See `Command`."""
        from pipelines.engine.run import DATABASE, open_tracking
        from pipelines.storage.paths import absolute

        workdir = absolute(config.workdir).resolve()
        if config.tracking.uri is None and not (workdir / DATABASE).is_file():
            # a mistyped directory must not become a new database
            raise UserError(f"there is no {workdir / DATABASE}: give workdir=DIR or tracking.uri=URI")
        return self.work(open_tracking(config.tracking, workdir, config.compute.unavailable_timeout_s), options)

    @abstractmethod
    def work(self, tracking: "Tracking", options: Namespace) -> list[str]:
        """Do the work; return the lines for standard output."""


class ApproveCommand(ChampionCommand):
    """Approve a version that waits for approval after its gates have passed; then promote it again.

    Examples:
      python -m pipelines promote approve models:/daefr-restoration@candidate workdir=runs/mine
      python -m pipelines promote approve models:/daefr-restoration/3 tracking.uri=http://server:5000

    """

    def add_options(self, parser: ArgumentParser) -> None:
        """See `Command`."""
        _add_model(parser)

    def work(self, tracking: "Tracking", options: Namespace) -> list[str]:
        """See `ChampionCommand`."""
        from pipelines.tracking import champions, registry
        from pipelines.tracking.promotions import current_user

        version = registry.resolve(tracking, options.model)
        tracking.client.set_model_version_tag(version.name, str(version.number), champions.APPROVED, current_user())
        return [f"{version.address} is approved by {current_user()}: promote it again"]


class RollbackCommand(ChampionCommand):
    """Make the champion before the current one the champion again. The gates refuse the current one from then on.

    Examples:
      python -m pipelines promote rollback restoration --why "faces squint" workdir=runs/mine

    """

    def add_options(self, parser: ArgumentParser) -> None:
        """See `Command`."""
        _add_stage(parser)
        parser.add_argument("--why", metavar="TEXT", required=True, help="the reason, for the history")

    def work(self, tracking: "Tracking", options: Namespace) -> list[str]:
        """See `ChampionCommand`."""
        from pipelines.tracking import champions, registry

        model = registry.MODELS[options.stage]
        entry = champions.roll_back(tracking, model, options.why)
        return [f"models:/{model}/{entry.champion} is the champion again; {entry.replaces} was rolled back"]


class HistoryCommand(ChampionCommand):
    """List every change of a stage's champion: who made it, when, why, and the metrics that the gates compared.

    Examples:
      python -m pipelines promote history restoration workdir=runs/mine

    """

    def add_options(self, parser: ArgumentParser) -> None:
        """See `Command`."""
        _add_stage(parser)

    def work(self, tracking: "Tracking", options: Namespace) -> list[str]:
        """See `ChampionCommand`."""
        from pipelines.tracking import champions, registry

        model = registry.MODELS[options.stage]
        entries = champions.champion_state(tracking, model).entries
        return [line for entry in entries for line in _lines(model, entry)] or [f"{model} never had a champion"]


class LineageCommand(ChampionCommand):
    """Show what a version was made from: dataset, recipes, configuration, code, and the versions before it.

    Examples:
      python -m pipelines promote lineage models:/daefr-restoration@champion workdir=runs/mine
      python -m pipelines promote lineage models:/daefr-restoration/3 --json tracking.uri=http://server:5000

    """

    def add_options(self, parser: ArgumentParser) -> None:
        """See `Command`."""
        _add_model(parser)
        parser.add_argument("--json", action="store_true", help="everything that was recorded, as JSON")

    def work(self, tracking: "Tracking", options: Namespace) -> list[str]:
        """See `ChampionCommand`."""
        from pipelines.promote.lineage import Ancestor, tree
        from pipelines.tracking import registry

        ancestor = Ancestor(tracking, registry.resolve(tracking, options.model))
        return [json.dumps(ancestor.as_json(), indent=2)] if options.json else tree(ancestor)


def _add_stage(parser: ArgumentParser) -> None:
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")


def _add_model(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/NUMBER")


def _lines(model: str, entry: "ChampionChange") -> list[str]:
    name = "no version" if entry.champion is None else f"models:/{model}/{entry.champion}"
    what = f"{entry.when:%Y-%m-%d %H:%M:%S} UTC  {entry.who}  {name} {entry.kind}"
    replaced = "" if entry.replaces is None else f", before it {entry.replaces}"
    metrics = [
        f"    {name}: {_number(ours)}" + ("" if theirs is None else f", champion {_number(theirs)}")
        for name, (ours, theirs) in entry.metrics.items()
    ]
    return [f"{what}{replaced}", f"    {entry.why}", *metrics]


def _number(value: float | None) -> str:
    return "unavailable" if value is None else f"{value:.6g}"
