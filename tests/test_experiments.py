"""Runs that take hours, or processes of their own, have configs that are valid: nobody should learn otherwise there."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from flwr.common.config import parse_config_args

from benchmarks import experiments, socket_bytes, thin_link
from common.config.run import RunConfig, defaults, parse_run_config
from tests.e2e import test_deployment, test_every_codec, test_mixed_codecs, test_tls

Values = dict[str, Any]


def planned() -> dict[str, Values]:
    """Every config of benchmarks/experiments, by experiment and run."""
    names = [module.name for module in pkgutil.iter_modules(experiments.__path__) if module.name != "runs"]
    modules = {name: importlib.import_module(f"{experiments.__name__}.{name}") for name in names}
    plans = [(name, plan) for name, module in modules.items() for plan in module.plans()]
    found = {f"{name}/{plan.name}": plan.config for name, plan in plans}
    assert len(found) == len(plans), "two runs of one experiment have the same name"
    return found


CONFIGS = (
    planned()
    | {f"thin-link/{way}": config for way, config in thin_link.WAYS.items()}
    | {f"socket-bytes/{way}": config for way, config in socket_bytes.WAYS.items()}
    | {f"e2e/{name}": test_every_codec.CONFIG | config for name, config in test_every_codec.RUNS.items()}
    | {"e2e/mixed": test_mixed_codecs.CONFIG}
    | {
        f"e2e/{text}": parse_config_args([text])
        for text in (test_deployment.EQUAL, test_deployment.KILLED, f"{test_tls.RUN} min-clients=1")
    }
)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_of_a_long_run_is_valid(name: str) -> None:
    assert isinstance(parse_run_config(defaults() | CONFIGS[name]), RunConfig)


def test_every_kind_of_run_is_here() -> None:
    assert {name.partition("/")[0] for name in CONFIGS} == {
        "codecs",
        "dinov2",
        "e2e",
        "hidenseek",
        "methods",
        "privacy",
        "sites",
        "socket-bytes",
        "thin-link",
        "two_classes",
    }
