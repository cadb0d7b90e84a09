"""What a change of a stage's settings costs: nothing, the steps that were added, or the stage."""

from pathlib import Path

from daefr.checkpoint import MODEL
from daefr.files import file_digest
from tests.e2e.command import run

STAGE = ("--stage", "hq_codebook")
KEY = "stages.hq_codebook"


def _weights(folder: Path) -> str:
    return file_digest(folder / MODEL)


def test_a_longer_training_resumes_from_the_shorter_one_and_equals_one_that_was_long_at_once(tmp_path: Path) -> None:
    trained = {}
    for name, lengths in (("twice", (10, 18)), ("once", (18,))):
        workdir = tmp_path / name
        assert run("synthesize", workdir).code == 0
        for steps in lengths:
            finished = run("train", workdir, *STAGE, f"{KEY}.steps={steps}")
            assert finished.code == 0, finished.err
            trained[name] = finished
    assert "hq_codebook: resuming after step 10" in trained["twice"].err
    assert "resuming after step" not in trained["once"].err
    weights = {name: _weights(Path(finished.out.split()[-1])) for name, finished in trained.items()}
    assert weights["twice"] == weights["once"]

    again = run("train", tmp_path / "twice", *STAGE, f"{KEY}.steps=18", f"{KEY}.log_every_n_steps=7")
    assert (again.code, again.started()) == (0, []), "how often something is logged changes no result"
