"""Values are read by the type of their key, from a YAML file and from the command line alike."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daefr.cli.parser import CommandParser
from daefr.errors import UserError
from daefr.settings.files import override, read_yaml, validate
from daefr.settings.speed import Speed
from pipelines.config import RunConfig, load_config

DEMO = Path(__file__).resolve().parents[2] / "pipelines/configs/demo.yaml"


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _in_file(folder: Path, key: str, text: str) -> RunConfig:
    """Load the demo's configuration with one more key, as YAML has it."""
    tree = yaml.safe_load(DEMO.read_text())
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = "VALUE"
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(tree).replace("VALUE", text))
    return load_config(path)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("stages.association.steps", "0100", 100),
        ("stages.association.steps", "8e5", 800_000),
        ("stages.association.steps", "1_000", 1000),
        ("stages.association.steps", "400.0", 400),
        ("compute.max_cache_bytes", "50_000_000_000", 50_000_000_000),
        ("stages.association.base_learning_rate", "1e-4", 1e-4),
        ("stages.association.base_learning_rate", "010", 10.0),
        ("workdir", "2024", Path("2024")),
        ("workdir", "0x10", Path("0x10")),
        ("workdir", "2024-01-01", Path("2024-01-01")),
        ("workdir", "12:30:00", Path("12:30:00")),
        ("workdir", "off", Path("off")),
        ("data.faces", "1.50", "1.50"),
        ("data.shard_storage", "null", None),
        ("compute.association.workers", "[1, 02]", (1, 2)),
        ("compute.association.workers", "2", 2),
        ("restore.upscale", "2", 2),
        ("restore.aligned", "yes", True),
        ("stages.association.speed.autocast", "off", "off"),
        ("data.faces", "[/a b, 007]", ["/a b", "007"]),
        ("evaluation.benchmarks", "{2024: {lq: 1_0}}", None),
    ],
)
def test_a_value_means_what_its_key_takes_in_a_file_and_on_the_command_line(
    key: str, text: str, value: Any, tmp_path: Path
) -> None:
    on_line, in_file = load_config(DEMO, [f"{key}={text}"]), _in_file(tmp_path, key, text)
    assert _value(on_line, key) == _value(in_file, key)
    if key == "evaluation.benchmarks":
        assert on_line.evaluation.benchmarks["2024"].lq == "1_0"
    else:
        assert _value(on_line, key) == value


PATHS = [
    "/x/faces #2", "a: b", "- x", "'quoted'", '"both"', "[1", "{x", "[a] b", "[a] #b", "%20?x#y", "*a", "&a", "!x",
    " a ",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["workdir", "data.faces", "compute.checkpoints", "evaluation.weights"])
def test_a_path_on_the_command_line_is_the_text_that_was_written(key: str, path: str) -> None:
    assert str(_value(load_config(DEMO, [f"{key}={path}"]), key)) == path


@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_any_name_of_a_file_is_a_path(name: str) -> None:
    assert load_config(DEMO, [f"workdir=/x/{name}"]).workdir == Path(f"/x/{name}")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("stages.association.steps", "1:30"),
        ("stages.association.steps", "0x64"),
        ("stages.association.steps", "1.5"),
        ("stages.association.steps", "1e-1"),
        ("stages.association.steps", "1e999999999"),
        ("stages.association.steps", "nan"),
        ("stages.association.steps", "true"),
        ("stages.association.steps", "100 # as published"),
        ("stages.association.steps", ""),
        ("compute.association.workers", "[1, 2] # two"),
        ("restore.aligned", "2"),
        ("workdir", ""),
        ("data.faces", ""),
    ],
)
def test_what_a_key_does_not_take_is_refused_and_nothing_of_it_dropped(key: str, text: str) -> None:
    with pytest.raises(UserError, match=key) as caught:
        load_config(DEMO, [f"{key}={text}"])
    assert f"{key}={text}" in str(caught.value)


@pytest.mark.parametrize("key", [
    "workdir", "data.detector", "evaluation.weights", "serve.token", "restore.parser",
    "stages.hq_codebook.perceptual.vgg16",
    "data.faces", "data.validation_faces", "compute.checkpoints", "restore.model", "tracking.artifact_location",
    "stages.hq_codebook.initial_checkpoint",
])  # fmt: skip
def test_a_tilde_is_home_wherever_a_path_is_taken(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(_value(load_config(DEMO, [f"{key}=~/a b"]), key)) == f"{tmp_path}/a b"
    assert str(_value(_in_file(tmp_path, key, "~"), key)) == str(tmp_path)
    assert str(_value(load_config(DEMO, [f"{key}=~nobody-has-this-name/a"]), key)) == "~nobody-has-this-name/a"


def test_a_tilde_is_home_in_lists_in_benchmarks_and_in_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config(DEMO, ["data.faces=[~/a, b]", "evaluation.benchmarks={mine: {lq: ~/lq, gt: ~/gt}}"])
    assert config.data.faces == ["/home/me/a", "b"]
    assert config.evaluation.benchmarks["mine"].lq == "/home/me/lq"
    parser = CommandParser("test", "")
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/x"]).out == Path("/home/me/x")


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine {}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("seed: 1\nworkdir: x\nseed: 2\n", 1, 3),
        ("data:\n  num_portraits: 1\n  'num_portraits': 2\n", 2, 3),
        ("evaluation: {benchmarks: {a: {lq: x},\n a: {lq: y}}}\n", 1, 2),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(text: str, first: int, second: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"mine {{}}\.yaml, line {second}: .* first in .*, line {first}$"):
        read_yaml(_file(tmp_path, text))


def test_a_merged_mapping_may_be_changed_and_an_alias_is_a_copy(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "a: &a {<<: {compile: true, upsample: nearest}, compile: false}\nb: *a\nc: {<<: [*a, {group_norm: torch}]}",
    )
    tree = read_yaml(path)
    override(tree.keys["b"], "compile=true", Speed)
    first, second, third = (validate(Speed, tree.keys[name]) for name in "abc")
    assert (first.compile, first.upsample) == (False, "nearest")
    assert second.compile is True
    assert (third.compile, third.upsample, third.group_norm) == (False, "nearest", "torch")


def test_an_error_names_where_the_value_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(DEMO.read_text() + "serve:\n  port: many\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=rf"^{path}, line {line}: serve\.port"):
        load_config(path)
    with pytest.raises(UserError, match=r"^command line, serve\.port=none: serve\.port"):
        load_config(path, ["serve.port=none"])
    with pytest.raises(UserError, match=rf"^{path}, line {line} with serve\.port=1, .*: serve: max_pixels"):
        load_config(path, ["serve.port=1", "serve.max_pixels=1.5e8"])


def test_a_mistake_between_two_keys_names_the_override_that_made_it() -> None:
    with pytest.raises(UserError, match=r"^.*demo\.yaml with compute\.restoration\.workers=3: .*not a multiple of 3"):
        load_config(DEMO, ["compute.restoration.workers=3"])


@pytest.mark.parametrize("text", ["a: !!python/object:os.system x", "? [a]\n: 1", "a: &a [*a]", "a: 1\n---\nb: 2"])
def test_what_yaml_could_do_besides_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine \{\}\.yaml"):
        read_yaml(_file(tmp_path, text))
