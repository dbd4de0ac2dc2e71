from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common.config.node import parse_node_config
from common.config.run import RunConfig, parse_run_config
from common.errors import ConfigError

ROOT = Path(__file__).parents[1]


def test_pyproject_lists_every_key_with_its_default() -> None:
    # Flower refuses overrides of keys that do not stand there.
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["flwr"]["app"]["config"]
    assert listed == RunConfig().as_dict()
    assert parse_run_config(listed) == RunConfig()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.toml")), ids=lambda path: path.name)
def test_config_files_are_valid(path: Path) -> None:
    parse_run_config(RunConfig().as_dict() | tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"participation": 0}, ["participation = 0", "greater than 0"]),
        ({"local-epochs": "many"}, ["local-epochs = 'many'", "integer"]),
        ({"codec": "zip"}, ["codec = 'zip'", "fuse8"]),
        ({"colour": "red"}, ["colour = 'red'", "no such key", "local-epochs"]),
        ({"kappa": 0.3}, ["kappa-final = 0.4", "kappa = 0.3"]),
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


def test_node_config() -> None:
    node = parse_node_config({"partition-id": 1, "num-partitions": 2, "something-of-another-app": 1})
    assert (node.partition_id, node.num_partitions, node.device) == (1, 2, "auto")
    assert parse_node_config({"partition-id": 0, "num-partitions": 1, "cache-dir": "/x/y"}).cache_path == Path("/x/y")
    for values, message in [
        ({}, "--node-config"),
        ({"partition-id": 2, "num-partitions": 2}, "below num-partitions"),
        ({"partition-id": -1, "num-partitions": 2}, "partition-id = -1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_node_config(values)


def test_the_documented_spelling_of_a_folder_is_what_flower_parses() -> None:
    from flwr.common.config import parse_config_args

    text = "partition-id=0 num-partitions=3 data='folder:/srv/my images'"
    assert parse_node_config(parse_config_args([text])).data == "folder:/srv/my images"
    line = "partition-id=0 num-partitions=3 data='folder:/srv/images'"
    assert all(f'--node-config "{line}"' in (ROOT / page).read_text() for page in ("README.md", "docs/data.md"))
