"""The mistake of a node that cannot compile, which is looked for before a run, and by each worker."""

from daefr.settings.base import StageName


def no_compiler(stage: StageName, node: str, lacks: str) -> str:
    """Return the sentence on a node that cannot compile a stage's network."""
    return (
        f"{stage} compiles its network, but node {node} has {lacks}: install it, as infra/Dockerfile does, or set "
        f"stages.{stage}.speed.compile=false, which trains slower"
    )
