from pathlib import Path
from tempfile import TemporaryDirectory

from daefr.data.manifest import DatasetManifest, Shard, write_manifest
from daefr.stages.config import AutoencoderTraining, RestorationTraining
from pipelines.gate import decide, measured_on


def test_the_first_candidate_is_promoted() -> None:
    assert decide(0.5, None).promoted


def test_only_a_lower_loss_replaces_the_champion() -> None:
    assert decide(0.4, 0.5).promoted
    assert not decide(0.5, 0.5).promoted
    assert not decide(0.6, 0.5).promoted


def _manifest(sha256: str) -> DatasetManifest:
    shard = Shard(name="a.tar", bytes=1, sha256=sha256, samples=1)
    with TemporaryDirectory() as folder:
        return write_manifest(
            Path(folder), resolution=32, recipes={}, variants={}, seed=0, train=[], validation=[shard]
        )


def test_losses_compare_on_the_same_images_and_weights_only() -> None:
    training = RestorationTraining(steps=1)
    same = measured_on(_manifest("a"), training)
    assert same == measured_on(_manifest("a"), training.model_copy(update={"steps": 9}))
    assert same != measured_on(_manifest("b"), training)
    assert same != measured_on(_manifest("a"), training.model_copy(update={"feature_weight": 1.0}))
    assert same != measured_on(_manifest("a"), AutoencoderTraining(steps=1))
