"""The commands that execute the steps of a configuration: all of them, or one."""

from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines.commands.command import StageCommand, StepCommand

if TYPE_CHECKING:
    from pipelines.chain import Chain


class FullCommand(StepCommand):
    """Run the whole pipeline: synthesize, train the four stages, evaluate, promote.

    What is up to date is not run again, and what was interrupted is resumed.

    Examples:
      python -m pipelines full
      python -m pipelines full --config pipelines/configs/ffhq512.yaml data.faces=FOLDER workdir=runs/ffhq

    """

    name = "full"

    def executable(self, options: Namespace) -> None:  # noqa: ARG002
        """See `StepCommand`."""
        return

    def work(self, chain: "Chain", options: Namespace) -> list[str]:  # noqa: ARG002
        """See `StepCommand`."""
        from pipelines.engine.progress import say
        from pipelines.preflight import check_nodes, remarks

        for line in remarks(chain.config):
            say(line)
        check_nodes(chain.config)
        return chain.run_all()


class SynthesizeCommand(StepCommand):
    """Make pairs of LQ and HQ faces: shards for training and validation.

    Examples:
      python -m pipelines synthesize
      python -m pipelines synthesize data.faces=FOLDER data.variants=4 workdir=runs/mine

    """

    name = "synthesize"

    def work(self, chain: "Chain", options: Namespace) -> list[str]:  # noqa: ARG002
        """See `StepCommand`."""
        return [f"dataset: {chain.synthesize().folder}"]


class TrainCommand(StageCommand):
    """Train one stage, and register its checkpoint as a candidate. The dataset and the stages before it must exist.

    Examples:
      python -m pipelines train --stage hq_codebook
      python -m pipelines train --stage restoration --config mine.yaml compute.restoration.workers=2

    """

    name = "train"

    def executable(self, options: Namespace) -> tuple[str, ...]:
        """See `StepCommand`."""
        return (options.stage,)

    def work(self, chain: "Chain", options: Namespace) -> list[str]:
        """See `StepCommand`."""
        from pipelines.preflight import check_nodes

        check_nodes(chain.config, [options.stage])
        result = chain.train_with_upstream(options.stage, chain.synthesize())
        return [f"model: {result.folder / result.outputs['checkpoint']}"]


class PromoteCommand(StageCommand):
    """Let the gates of a stage decide whether its candidate becomes champion.

    Other commands on champions: promote approve, promote rollback, promote history, promote lineage.

    Examples:
      python -m pipelines promote --stage restoration
      python -m pipelines promote --stage restoration --config mine.yaml promotion.dry_run=true

    """

    name = "promote"

    def executable(self, options: Namespace) -> tuple[str, ...]:
        """See `StepCommand`."""
        return (f"promote_{options.stage}",)

    def work(self, chain: "Chain", options: Namespace) -> list[str]:
        """See `StepCommand`."""
        dataset = chain.synthesize()
        return [chain.promote(options.stage, chain.train_with_upstream(options.stage, dataset), dataset)]
