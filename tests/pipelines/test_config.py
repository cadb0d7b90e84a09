import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from daefr.errors import UserError
from pipelines.config import RunConfig, load_config
from pipelines.print_config import show_config

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "pipelines/configs/demo.yaml"
SHIPPED = sorted([*(ROOT / "pipelines/configs").glob("*.yaml"), *(ROOT / "tests/e2e").glob("*.yaml")])


FULL = [
    "promotion.restoration.gates=[{metric: psnr, min_value: 1}, {metric: ssim, max_value: 1, benchmark: mine}]",
    "evaluation.benchmarks={mine: {lq: a, gt: b}, s3: {lq: 's3://bucket/faces: #1'}}",
    "compute.restoration.workers=[1,2]",
    "data.faces=[a, b]",
    "restore.suffix=.x",
]
"""Values of every kind: nested settings in lists and dictionaries, ranges, and strings that YAML must quote."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_survives_printing(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(show_config(config))
    assert load_config(printed) == config


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _models(kind)
    return found


def test_every_key_is_described_in_full_sentences() -> None:
    for model in _models(RunConfig):
        for name, field in model.model_fields.items():
            text = field.description or ""
            assert len(text.split()) >= 4, f"{model.__name__}.{name}"
            assert text[-1] == ".", f"{model.__name__}.{name}"


def test_a_printed_configuration_describes_each_key_above_it_and_loads_again(tmp_path: Path) -> None:
    config = load_config(DEMO, FULL)
    text = show_config(config)
    (tmp_path / "printed.yaml").write_text(text)
    assert load_config(tmp_path / "printed.yaml") == config
    lines = [line.strip() for line in text.splitlines()]
    printed = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    for model in _models(RunConfig):
        for name, field in model.model_fields.items():
            assert str(field.description) in printed, f"{model.__name__}.{name}"


def test_an_override_changes_its_value_and_no_other() -> None:
    before = load_config(DEMO)
    after = load_config(DEMO, ["stages.hq_codebook.steps=7"])
    assert after.stages.hq_codebook.steps == 7
    assert after.stages.lq_codebook == before.stages.lq_codebook


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.restoration.stepz=3", "stages.restoration.stepz: did you mean steps?"),
        ("data.colour=red", "unknown key data.colour"),
        ("stages.restoration.warmup=3", "did you mean warmup_steps?"),
        ("stages.restoration.checkpoint_every=3", "did you mean checkpoint_every_n_steps?"),
        ("stages.restoration.ema=0.9", "did you mean ema_decay?"),
        ("compute.restoration.keep=3", "did you mean keep_last?"),
        ("compute.cache_bytes=3", "did you mean max_cache_bytes?"),
        ("stages.association.steps=many", "stages.association.steps: Input should be a valid integer"),
        ("stages.association.steps=-1", "stages.association.steps: Input should be greater than or equal to 0"),
        ("network.autoencoder.resolution=66", "multiple of 4"),
        ("network.autoencoder.attention_resolutions=[48]", "choose among those"),
        ("network.predictor.heads=3", "does not divide"),
        (
            "compute.restoration.workers=3",
            "stages.restoration.global_batch_size=8 is not a multiple of 3",
        ),
        ("stages.hq_codebook.epochs=3", "set either steps or epochs"),
        ("stages.hq_codebook.steps=0", "steps=0 requires initial_checkpoint"),
        ("data.severe_recipe=nonsense", "unknown recipe 'nonsense'"),
        ("data.align=mtcnn", "data.align: Input should be 'facexlib'"),
        ("data.filters.min_sizes=3", "data.filters.min_sizes: did you mean min_size?"),
        ("data.max_pixels=200000000", "data.max_pixels: Input should be less than or equal to 178000000"),
        ("stages", "not of the form"),
        ("seed.deeper=1", "seed is a value"),
    ],
)
def test_a_wrong_override_is_explained_in_one_line_that_names_it(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00", ""])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no configuration"):
        load_config(tmp_path / "none.yaml")


def test_crops_of_photographs_must_be_large_enough_for_the_network() -> None:
    overrides = ["data.align=facexlib", "network.autoencoder.attention_resolutions=[256]"]
    load_config(DEMO, [*overrides, "network.autoencoder.resolution=512"])
    with pytest.raises(UserError, match=r"data\.align makes crops of 512 pixels, and the network takes 1024"):
        load_config(DEMO, [*overrides, "network.autoencoder.resolution=1024"])


def test_loading_a_configuration_needs_no_heavy_libraries() -> None:
    code = "import sys, pipelines.config; print(*{'torch', 'boto3', 'ray', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
