from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic.fields import FieldInfo

from common.aggregation import RULES
from common.codecs import CODECS
from common.config.node import parse_node_config
from common.config.run import RunConfig, all_sections, parse_run_config
from common.config.section import Section, kebab
from common.errors import ConfigError
from common.methods import METHODS
from common.models.heads import HEADS

ROOT = Path(__file__).parents[1]
NODE = {"partition-id": 0, "num-partitions": 1}


def test_pyproject_lists_every_key_with_its_default() -> None:
    # Flower refuses overrides of keys that do not stand there.
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["flwr"]["app"]["config"]
    assert listed == RunConfig().as_dict()
    assert parse_run_config(listed) == RunConfig()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.toml")), ids=lambda path: path.stem)
def test_config_files_are_valid(path: Path) -> None:
    parse_run_config(RunConfig().as_dict() | tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"participation": 0}, ["participation = 0", "greater than 0"]),
        ({"local-epochs": "many"}, ["local-epochs = 'many'", "integer"]),
        ({"codec": "zip"}, ["codec = 'zip'", "fuse8"]),
        ({"colour": "red"}, ["colour = 'red'", "no such key", "local-epochs"]),
        ({"kappa": 0.3}, ["kappa-final = 1.0", "kappa = 0.3"]),
        ({"kappa": 0.8, "kappa-final": 0.4}, ["kappa = 0.8", "kappa-final = 0.4", "aggregation = 'beta'"]),
        ({"method": "fedprox"}, ["method = 'fedprox'", "deltamask"]),
        ({"head": "random"}, ["head = 'random'", "hidenseek"]),
        ({"local-only": True}, ["local-only", "hidenseek"]),
        ({"sign-codec": "relative"}, ["sign-codec = 'relative'", "exact"]),
        ({"seed": -1, "initial-theta": 1.0}, ["seed = -1", "initial-theta = 1.0"]),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(values: dict, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_config(values)
    for part in parts:
        assert part in str(caught.value)


PRIVATE: dict[str, object] = {"method": "private", "validation-fraction": 0.0, "screen-heads": False}
"""What the private method asks of a config."""
CHOICES: dict[str, list[dict[str, object]]] = {
    "method": [PRIVATE if name == "private" else {"method": name} for name in METHODS],
    "codec": [{"codec": name} for name in CODECS],
    "head": [{"head": name} | ({"method": "fedavg"} if name == "random" else {}) for name in HEADS],
    "aggregation": [{"aggregation": name} for name in RULES],
    "partitioner": [{"partitioner": name} for name in ("iid", "dirichlet", "pathological")],
    "optimiser": [{"method": "fedavg", "optimiser": name} for name in ("adam", "sgd")],
    "score-optimiser": [{"score-optimiser": name} for name in ("adam", "sgd")],
    "validation-fraction": [{"validation-fraction": share} for share in (0.0, 0.1)],
    "augment": [{"augment": number} for number in (0, 1)],
    "head-finetune-rounds": [{"head-finetune-rounds": number} for number in (0, 1)],
    "upload": [{"method": "hidenseek", "upload": name} for name in ("signs", "scores")],
}
"""Every way to put the sections under a key to use."""


VALUES: dict[str, object] = {
    "resume": "latest",
    "method": "fedavg",
    "head": "linear-probe",
    "participation": 0.5,
    "validation-fraction": 0.2,
    "kappa": 0.75,
    "kappa-final": 0.5,
    "backbone": "lenet",
    "weights": "random",
    "dataset": "cifar10",
    "pixel-range": "0..4095",
    "output-dir": "elsewhere",
}
"""Other values of keys that no rule finds one for."""
WITH: dict[str, dict[str, object]] = {
    "kappa": {"kappa-final": 0.5, "aggregation": "beta"},
    "kappa-final": {"aggregation": "beta"},
}
"""What such a value needs beside it."""


def other(key: str, field: FieldInfo) -> object:
    """A valid value that is not the default."""
    choices = get_args(field.annotation)
    if key in VALUES:
        return VALUES[key]
    if choices:
        return next(choice for choice in choices if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return {"flips": "beta", "exact": "fuse16"}[field.default]  # names of rules and codecs
    if isinstance(field.default, int):
        return field.default + 1
    return field.default * 1.25 if field.default >= 1 else (field.default or 0.4) * 0.75


@pytest.mark.parametrize("kind", [kind for kind in all_sections() if kind.under], ids=lambda kind: kind.__name__)
def test_a_key_without_effect_is_refused_with_the_choice_by_which_it_has_none(kind: type[Section]) -> None:
    choices = [choice for key in CHOICES if key in (kind.under, "method") for choice in CHOICES[key]]
    used = [choice for choice in choices if kind in RunConfig(**snake(choice)).in_use()]
    unused = [choice for choice in choices if choice not in used]
    assert used, "no choice puts it to use"
    assert unused, "it is always in use"
    for field, about in kind.model_fields.items():
        key, value = kebab(field), other(kebab(field), about)
        for choice in used:
            parse_run_config(choice | {key: value} | WITH.get(key, {}))
        for choice in unused:
            with pytest.raises(ConfigError, match=rf"{key} = .* has no effect under [a-z-]+ = ") as refusal:
                parse_run_config(choice | {key: value} | WITH.get(key, {}))
            assert f"under {kind.under} = " in str(refusal.value) or "under method = " in str(refusal.value)


SHOWS_IMAGES = ("personal-test", "augment", "head")
"""Keys that the private method takes no other value of."""


@pytest.mark.parametrize("kind", [kind for kind in all_sections() if not kind.under], ids=lambda kind: kind.__name__)
def test_keys_of_every_run_are_taken_under_every_method(kind: type[Section]) -> None:
    for field, about in kind.model_fields.items():
        key, value = kebab(field), other(kebab(field), about)
        for choice in CHOICES["method"]:
            if choice.get(key, value) == value and not (choice is PRIVATE and key in SHOWS_IMAGES):
                assert parse_run_config(choice | {key: value}).as_dict()[key] == value != about.default


def test_each_of_several_keys_without_effect_is_named() -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_run_config({"method": "fedavg", "codec": "relative", "density": 0.1})
    for part in ("codec = 'relative'", "density = 0.1", "method = 'fedavg'", "hidenseek and lotteryfl"):
        assert part in str(refusal.value)


def test_a_key_stands_in_one_section_only() -> None:
    keys = [name for kind in all_sections() for name in kind.model_fields]
    assert len(keys) == len(set(keys))


def test_a_config_can_be_changed() -> None:
    config = RunConfig(codec="exact", seed=3)
    assert config.replace(seed=4) == RunConfig(codec="exact", seed=4)
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)


def snake(values: dict[str, object]) -> dict[str, object]:
    return {key.replace("-", "_"): value for key, value in values.items()}


def test_node_config() -> None:
    node = parse_node_config({"partition-id": 1, "num-partitions": 2})
    assert (node.partition_id, node.num_partitions, node.device) == (1, 2, "auto")
    assert parse_node_config({"partition-id": 0, "num-partitions": 1, "cache-dir": "/x/y"}).cache_path == Path("/x/y")
    for values, message in [
        ({}, "--node-config"),
        ({"partition-id": 2, "num-partitions": 2}, "below num-partitions"),
        ({"partition-id": -1, "num-partitions": 2}, "partition-id = -1"),
        (NODE | {"something-else": 1}, "something-else = 1: there is no such key; known keys: partition-id"),
        (NODE | {"Data": "folder:/x"}, "Data = .* there is no such key; do you mean data"),
        (NODE | {"devcie": "cpu"}, "devcie = .* do you mean device"),
        (NODE | {"dataset": "folder:/x"}, "dataset = .* a key of the run config.* named by data"),
        (NODE | {"learning-rate": 1.0}, "learning-rate = 1.0: this is a key of the run config"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_node_config(values)


def test_the_documented_spelling_of_a_folder_is_what_flower_parses() -> None:
    from flwr.common.config import parse_config_args

    text = "partition-id=0 num-partitions=3 data='folder:/srv/my images'"
    assert parse_node_config(parse_config_args([text])).data == "folder:/srv/my images"
    line = "partition-id=0 num-partitions=3 data='folder:/srv/images'"
    assert all(f'--node-config "{line}"' in (ROOT / page).read_text() for page in ("README.md", "docs/data.md"))
