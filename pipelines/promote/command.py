"""The command line of promotion: the step, and what people do with champions."""

import argparse
import json
import sys
from pathlib import Path

from daefr.errors import UserError
from daefr.settings.base import STAGES, StageName
from pipelines.config import RunConfig, load_config
from pipelines.engine.command import DEMO, run_command
from pipelines.engine.progress import say
from pipelines.engine.run import DATABASE, open_tracking
from pipelines.tracking import champions, registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.lineage import Ancestor, tree
from pipelines.tracking.promotions import Entry, whoami


def main(arguments: list[str]) -> int:
    """Run the step, or what the first argument names; return the exit code."""
    if arguments:
        arguments[0] = arguments[0].removeprefix("--")  # --rollback is another way to say rollback
    if arguments and arguments[0] not in COMMANDS:
        return run_command("pipelines.promote.step", arguments)
    options = _parse(arguments)
    try:
        lines = COMMANDS[options.command](_open(load_config(options.config, options.overrides)), options)
    except UserError as error:
        say(f"error: {error}")
        return 2
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    # argparse does not take overrides after an option, as in `rollback restoration --why TEXT workdir=DIR`
    options, overrides = parser.parse_known_args(arguments)
    for override in overrides:
        if override.startswith("-"):
            parser.error(f"unrecognized argument: {override}")
    options.overrides += overrides
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines promote",
        description="With --stage instead of a command: let the gates decide on that stage's candidate.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    rollback = commands.add_parser("rollback", help="put the champion before this one into service again")
    rollback.add_argument("stage", choices=STAGES)
    rollback.add_argument("--why", required=True, help="for the history; the gates turn the version down from now on")
    history = commands.add_parser("history", help="tell every change of the champion: who, when, why")
    history.add_argument("stage", choices=STAGES)
    approve = commands.add_parser("approve", help="approve a version that waits for it; then promote it again")
    approve.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/NUMBER")
    lineage = commands.add_parser("lineage", help="tell what a version came from, down to the sources")
    lineage.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/NUMBER")
    lineage.add_argument("--json", action="store_true", help="everything that was recorded, recipes and configuration")
    for command in (rollback, history, approve, lineage):
        command.add_argument("--config", type=Path, default=DEMO, help="of the run, for where MLflow is")
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="such as tracking.uri=http://server"
        )
    return parser


def _open(config: RunConfig) -> Tracking:
    """Open the run's MLflow, which must exist: a mistyped place is not to become a new one."""
    workdir = config.workdir.expanduser().absolute()
    if config.tracking.uri is None and not (workdir / DATABASE).is_file():
        raise UserError(f"there is no {workdir / DATABASE}: give workdir=DIR or tracking.uri=URI")
    return open_tracking(config, workdir)


def _rollback(tracking: Tracking, options: argparse.Namespace) -> list[str]:
    model = _model(options.stage)
    entry = champions.roll_back(tracking, model, options.why)
    return [f"models:/{model}/{entry.champion} is the champion again; {entry.replaces} was taken back"]


def _history(tracking: Tracking, options: argparse.Namespace) -> list[str]:
    model = _model(options.stage)
    return [line for entry in champions.reign(tracking, model).entries for line in _told(model, entry)] or [
        f"{model} never had a champion"
    ]


def _told(model: str, entry: Entry) -> list[str]:
    name = "no version" if entry.champion is None else f"models:/{model}/{entry.champion}"
    what = f"{entry.when:%Y-%m-%d %H:%M:%S} UTC  {entry.who}  {name} {entry.kind}"
    replaced = "" if entry.replaces is None else f", before it {entry.replaces}"
    figures = [
        f"    {figure}: {_number(ours)}" + ("" if theirs is None else f", champion {_number(theirs)}")
        for figure, (ours, theirs) in entry.figures.items()
    ]
    return [f"{what}{replaced}", f"    {entry.why}", *figures]


def _number(value: float | None) -> str:
    return "unavailable" if value is None else f"{value:.6g}"


def _approve(tracking: Tracking, options: argparse.Namespace) -> list[str]:
    version = registry.resolve(tracking, options.model)
    tracking.client.set_model_version_tag(version.name, str(version.number), champions.APPROVED, whoami())
    return [f"{version.address} is approved by {whoami()}: promote it again"]


def _lineage(tracking: Tracking, options: argparse.Namespace) -> list[str]:
    ancestor = Ancestor(tracking, registry.resolve(tracking, options.model))
    return [json.dumps(ancestor.as_json(), indent=2)] if options.json else tree(ancestor)


def _model(stage: StageName) -> str:
    return registry.MODELS[stage]


COMMANDS = {"rollback": _rollback, "history": _history, "approve": _approve, "lineage": _lineage}
