"""The error of a node without a compiler, which is checked before a run and by each worker."""

from daefr.settings.base import StageName


def missing_compiler_message(stage: StageName, node: str, lacks: str) -> str:
    """Return the error message for a node that cannot compile a stage's network."""
    return (
        f"{stage} compiles its network, but node {node} has {lacks}; install it, as infra/Dockerfile does, or set "
        f"stages.{stage}.speed.compile=false, which is slower"
    )
