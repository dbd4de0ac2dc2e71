"""The run config and the node config, parsed once at the edge of each app into typed, validated values.

Keys are kebab-case in ``pyproject.toml``, in ``--run-config`` and in ``--node-config``; attributes are the same names
in snake_case. Nothing below the two apps reads Flower's dictionaries.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from common.codecs import available_codecs
from common.data.catalogue import SOURCES
from common.errors import ConfigError

__all__ = ["NodeConfig", "RunConfig", "parse_node_config", "parse_run_config", "reference"]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _known_codec(name: str) -> str:
    if name not in available_codecs():
        raise PydanticCustomError("codec", "choose one of {names}", {"names": ", ".join(available_codecs())})
    return name


class _Config(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=True, protected_namespaces=()
    )


class RunConfig(_Config):
    """Everything that one run is defined by; the same on the server and on every client."""

    method: Literal["deltamask", "hidenseek", "fedavg", "lotteryfl"] = Field(
        "deltamask",
        description="Algorithm: probabilistic masks; signs on a pruned network; or as references, float32 weights of "
        "the same blocks and the head, averaged (`fedavg`), also with each client pruning them for itself "
        "(`lotteryfl`).",
    )
    seed: int = Field(
        1, ge=0, lt=2**63, description="Seed of everything random in the run. The same seed gives the same bytes."
    )
    threads: int = Field(
        1,
        ge=0,
        le=1024,
        description="CPU threads of torch in each process; 0 leaves torch's own choice. Other numbers of threads may "
        "round differently.",
    )

    num_server_rounds: int = Field(10, ge=1, le=100_000, description="Rounds of masked training, after the head round.")
    participation: float = Field(1.0, gt=0, le=1, description="Share of the clients that train in a round.")
    min_clients: int = Field(
        2,
        ge=1,
        description="Clients that must be connected before the run starts, and quorum of usable replies in each round.",
    )
    node_wait_seconds: float = Field(120.0, gt=0, description="How long to wait for min-clients to connect.")
    round_timeout_seconds: float = Field(
        3600.0, gt=0, description="How long to wait for the replies of one round; later replies are counted as missing."
    )

    backbone: str = Field(
        "letters-vit",
        min_length=1,
        description="`letters-vit` (embedded), `lenet`, `conv4` or `conv6` (random weights), a preset, a model of "
        "timm, or `open_clip:MODEL/TAG`; `deltamask model` lists the presets, `deltamask model NAME` shows one.",
    )
    weights: str = Field(
        "default",
        min_length=1,
        description="Weights of the backbone: `default` (embedded for letters-vit, `random` for lenet, conv4 and "
        "conv6, else from the Hugging Face hub or its cache), `random:SEED` (`random` is seed 0), or the path of a "
        ".safetensors file.",
    )
    image_size: int = Field(
        0,
        ge=0,
        le=2048,
        description="Side of the input images; 0 is the preset's or backbone's own. Position embeddings are resized.",
    )
    masked_blocks: int = Field(
        5,
        ge=0,
        le=1000,
        description="Masked blocks, counted from the last; 0 is all. Every Linear and Conv2d weight in them has a "
        "score.",
    )

    dataset: str = Field(
        "digits",
        min_length=1,
        description=f"{SOURCES}. The server tests on its test images; clients without `data` share its training "
        "images.",
    )
    train_limit: int = Field(
        0, ge=0, description="Use only that many training images, the same number of each class; 0 is all."
    )
    test_limit: int = Field(
        0, ge=0, description="Use only that many test images, the same number of each class; 0 is all."
    )
    partitioner: Literal["iid", "dirichlet", "pathological"] = Field(
        "iid", description="How training images are divided among clients."
    )
    dirichlet_alpha: float = Field(1.0, gt=0, description="Concentration of `dirichlet`; small is skewed.")
    classes_per_client: int = Field(2, ge=1, description="Classes each client holds under `pathological`.")
    validation_fraction: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Share of each client's images that it never trains on; its accuracy on them is reported in every "
        "evaluated round.",
    )

    personal_test: bool = Field(
        False,
        description="Clients test the model they have just trained on the test images of the run's dataset that are of "
        "their own classes, in every evaluated round, as LotteryFL does.",
    )

    local_epochs: int = Field(3, ge=1, description="Passes over the local data in a round.")
    batch_size: int = Field(32, ge=1, description="Images in a training step; a SuperNode may have its own.")
    learning_rate: float = Field(0.1, gt=0, description="The optimiser's step on the scores.")
    weight_learning_rate: float = Field(1e-4, gt=0, description="The same on weights: `fedavg`, `lotteryfl`.")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="How clients train; `adam` is the paper.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of `sgd`.")
    augment: int = Field(
        0,
        ge=0,
        le=100,
        description="Augmented views of each training image beside itself, drawn once: their activations are cached.",
    )
    augment_mirror: bool = Field(
        True, description="Views may be mirrored; false for digits, letters, and all that reads one way."
    )
    initial_theta: float = Field(
        0.95, gt=0, lt=1, description="Probability of every mask bit at the start; 1 would be the pre-trained function."
    )
    theta_clip: float = Field(0.01, gt=0, lt=0.5, description="Aggregated probabilities stay in [clip, 1 - clip].")
    prior: float = Field(1.0, ge=1, description="lambda_0 of the Beta(lambda_0, lambda_0) prior.")
    head: Literal["linear-probe", "ridge", "mean", "random"] = Field(
        "linear-probe",
        description="How the head is fitted in the head round: the paper's average of local probes, ridge regression "
        "in closed form (the same for every split of the data), or the nearest class mean. `random` is not fitted: for "
        "networks trained from scratch, by `hidenseek` (signs on it too) or `fedavg`.",
    )
    head_epochs: int = Field(300, ge=1, description="`linear-probe`: epochs in the head round.")
    head_learning_rate: float = Field(0.03, gt=0, description="`linear-probe`: Adam's step in the head round.")
    head_finetune_rounds: int = Field(
        0, ge=0, description="In so many of the last rounds clients train the head too, and the server averages it."
    )
    head_finetune_learning_rate: float = Field(0.001, gt=0, description="Adam's step on the head in these rounds.")

    codec: str = Field("fuse8", description="How updates travel; see common/codecs.")
    kappa: float = Field(0.8, gt=0, le=1, description="Share of the changed bits that is sent, in the first round.")
    kappa_final: float = Field(0.4, gt=0, le=1, description="The same in the last round; a cosine lies between.")

    fuse_candidates: bool = Field(
        True,
        description="`fuse` codecs: test only positions as near to theta as the furthest flip; false is the paper.",
    )
    relative_preset: Literal["fast", "default", "small"] = Field(
        "default", description="Effort of the codec `relative`: more candidates are slower, and their payloads smaller."
    )
    target_bpp: float = Field(
        0.0,
        ge=0,
        le=32,
        description="Budget of the codec `relative`, in bits per parameter: the step is shrunk to fit; 0 is no limit.",
    )
    downlink: Literal["float32", "quantised", "exact", "relay"] = Field(
        "exact",
        description="How theta travels to clients that hold the version before: `exact` sends what changed, `relay` "
        "the clients' payloads, which shows them each other's masks. Others get the `quantised` theta.",
    )

    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the weights that pruning leaves; 1 prunes nothing. `hidenseek`, `lotteryfl`.",
    )
    lottery_accuracy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="`lotteryfl`: a client prunes when the global weights that it keeps are better than this on its "
        "images: those held out, or those it trains on where there are none.",
    )
    lottery_step: float = Field(
        0.2, gt=0, lt=1, description="`lotteryfl`: share of its weights that a client prunes at a time."
    )
    prune_passes: int = Field(
        100, ge=1, le=10_000, description="Passes of SynFlow; a single one empties layers at low densities."
    )
    sign_magnitudes: Literal["own", "constant"] = Field(
        "own", description="Sizes of the weights that signs multiply: their own, or one for each layer."
    )
    sign_learning_rate: float = Field(0.003, gt=0, description="The optimiser's step on scores, under `hidenseek`.")
    score_init: float = Field(
        0.1, gt=0, le=100, description="Scores start each round with the global sign and a size up to this."
    )
    sign_momentum: float = Field(
        0.0, ge=0, lt=1, description="Share of the old moving average of signs in the new one; 0 has no memory."
    )
    sign_turn_share: float = Field(
        0.5,
        ge=0,
        le=0.5,
        description="A global sign turns where more than this share of the average is against it; 0.5 is the majority. "
        "Lower for many clients with different classes.",
    )
    sign_weighting: Literal["examples", "clients"] = Field(
        "examples", description="What a client's signs count by: its examples, or once."
    )
    sign_codec: str = Field(
        "exact",
        description="How flips of signs travel, where the signs themselves are not shorter: `exact` loses nothing, "
        "`fuse8` flips some by mistake.",
    )
    upload: Literal["signs", "scores"] = Field(
        "signs", description="What `hidenseek` clients send; `scores`, in float32, is an ablation."
    )
    local_only: bool = Field(
        False, description="The control of `hidenseek`: clients go on from their own signs, and send nothing."
    )

    eval_every: int = Field(
        1, ge=1, description="Rounds from one evaluation to the next; the last is always evaluated."
    )
    eval_batch_size: int = Field(250, ge=1, description="Images in a batch without gradients.")
    output_dir: str = Field(
        "runs",
        min_length=1,
        description="Where the server writes its run folders; relative to the folder the SuperLink was started in.",
    )

    _codec = field_validator("codec")(_known_codec)

    @field_validator("sign_codec")
    @classmethod
    def _sign_codec_keeps_signs(cls, name: str) -> str:
        names = [known for known in available_codecs() if known != "relative"]  # it sends samples, and signs are none
        if name not in names:
            raise PydanticCustomError("codec", "choose one of {names}", {"names": ", ".join(names)})
        return name

    def evaluates(self, server_round: int) -> bool:
        """Whether the model is tested after a round."""
        return server_round % self.eval_every == 0 or server_round == self.num_server_rounds

    @property
    def frozen_head_rounds(self) -> int:
        """Rounds of masked training before those that train the head too."""
        return self.num_server_rounds - self.head_finetune_rounds


class NodeConfig(_Config):
    """What one SuperNode says of itself (``--node-config``); a simulation fills in the first two."""

    model_config = ConfigDict(extra="ignore")

    partition_id: int = Field(
        ge=0,
        lt=2**32 - 1,
        description="The client id: 0 .. num-partitions - 1, another one for each SuperNode, the same after a restart.",
    )
    num_partitions: int = Field(ge=1, description="Parts the training data is divided into.")
    data: str = Field(
        "",
        description="This client's own images, all of which are its part: `folder:PATH`, `npz:PATH` or another "
        "`dataset`; default: its share of the run's dataset.",
    )
    codec: str = Field("", description="This client's codec; default: the run's.")
    target_bpp: float | None = Field(None, ge=0, le=32, description="This client's budget; default: the run's.")
    batch_size: int | None = Field(
        None, ge=1, description="This client's images in a training step; default: the run's."
    )
    device: str = Field("auto", description="`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="What layers compute in; `auto` is bfloat16 (by autocast) on CUDA, and float32 elsewhere. Scores "
        "are always float32.",
    )
    activations: Literal["disk", "memory", "none"] = Field(
        "disk",
        description="Where the frozen prefix's activations are kept: a memory-mapped file in cache-dir, this process, "
        "or nowhere: then every step computes them.",
    )
    cache_dir: str = Field(
        "",
        description="Where activations are kept; default: $XDG_CACHE_HOME/deltamask, ~/.cache/deltamask.",
    )

    @field_validator("codec")
    @classmethod
    def _codec_or_none(cls, name: str) -> str:
        return name and _known_codec(name)

    @property
    def cache_path(self) -> Path:
        """The cache folder, as a path."""
        return Path(self.cache_dir).expanduser() if self.cache_dir else default_cache_path()


def default_cache_path() -> Path:
    """``$XDG_CACHE_HOME/deltamask``, ``~/.cache/deltamask``, or a folder in the temporary directory for users without a
    home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "deltamask"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "deltamask"


def parse_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Parse Flower's run config.

    Raises
    ------
    ConfigError
        Naming every wrong key, its value and what is allowed.
    """
    config = _parse(RunConfig, values, "run config")
    if config.kappa_final > config.kappa:
        raise ConfigError(
            f"run config: kappa-final = {config.kappa_final} is above kappa = {config.kappa}; "
            "the share sent may only fall"
        )
    if config.frozen_head_rounds < 0:
        raise ConfigError(
            f"run config: head-finetune-rounds = {config.head_finetune_rounds} is above "
            f"num-server-rounds = {config.num_server_rounds}; the head is trained in the last of them"
        )
    if config.method == "deltamask" and config.head == "random":
        raise ConfigError(
            "run config: head = 'random': deltamask leaves the head as it is; choose one that is fitted, or the method "
            "hidenseek, fedavg or lotteryfl"
        )
    if config.local_only and (config.method != "hidenseek" or config.upload != "signs"):
        raise ConfigError("run config: local-only = true: it is the control of method = 'hidenseek', upload = 'signs'")
    return config


def parse_node_config(values: Mapping[str, Any]) -> NodeConfig:
    """Parse a SuperNode's node config.

    Raises
    ------
    ConfigError
        As `parse_run_config`; also when partition-id is not below num-partitions.
    """
    if "partition-id" not in values or "num-partitions" not in values:
        raise ConfigError(
            'node config: start the SuperNode with --node-config "partition-id=0 num-partitions=2", '
            "each with a partition-id of its own"
        )
    config = _parse(NodeConfig, values, "node config")
    if config.partition_id >= config.num_partitions:
        raise ConfigError(
            f"node config: partition-id = {config.partition_id}: must be below num-partitions = {config.num_partitions}"
        )
    return config


_T = TypeVar("_T", bound=_Config)


def _parse(model: type[_T], values: Mapping[str, Any], where: str) -> _T:
    try:
        return model.model_validate({key: values[key] for key in values})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, item, where) for item in error.errors())) from None


def _explain(model: type[_Config], item: Any, where: str) -> str:
    key = str(item["loc"][0]) if item["loc"] else "?"
    if item["type"] == "extra_forbidden":
        known = ", ".join(_kebab(name) for name in model.model_fields)
        return f"{where}: {key} = {item['input']!r}: there is no such key; known keys: {known}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{where}: {key} = {item['input']!r}: {message}"


def reference() -> str:
    """Every key as Markdown tables, as docs/reference/config.md shows them."""
    parts = []
    for title, model in (("Run config", RunConfig), ("Node config", NodeConfig)):
        rows = [f"## {title}", "", "| key | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "" if field.is_required() else f"`{json.dumps(field.default)}`"
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
            rows.append(f"| `{_kebab(name)}` | {default} | {field.description}{allowed} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(reference())
