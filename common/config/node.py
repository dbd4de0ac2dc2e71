"""The node config: what one SuperNode says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from common.codecs.config import known_codec
from common.config.cache_path import default_cache_path
from common.config.run import defaults
from common.config.section import Section, kebab, nearest, parse
from common.config.state_path import default_state_path
from common.data.pixel_range import AUTO, PixelRange, known_pixel_range, read_pixel_range
from common.errors import ConfigError

__all__ = ["NodeConfig", "parse_node_config"]

_WHERE = "node config"


class NodeConfig(Section):
    """Keys of ``--node-config``; a simulation fills in the first two."""

    title: ClassVar[str] = "Node config"

    partition_id: int = Field(
        ge=0,
        lt=2**32 - 1,
        description="The client id: 0 .. num-partitions - 1, another one for each SuperNode, the same after a restart.",
    )
    num_partitions: int = Field(
        ge=1, description="Parts the training data is divided into; the same for all clients without `data`."
    )
    data: str = Field(
        "",
        description="This client's own images, all of which are its part: `folder:PATH`, `npz:PATH` or another "
        "`dataset`; default: its share of the run's dataset.",
    )
    pixel_range: str = Field(
        AUTO,
        description="What is black and white in those image files of `data` that have more than 8 bits, such as "
        "`0..4095` or `-160..240`; `auto` is what each file states, else the full range of its bits.",
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
        description="Where this client keeps what it need not compute or be sent again; default: "
        "$XDG_CACHE_HOME/deltamask, ~/.cache/deltamask.",
    )
    cache_limit_mb: int = Field(
        20_000,
        ge=1,
        description="Megabytes of decoded images and activations in cache-dir; the longest unused go first.",
    )

    privacy_limit: float | None = Field(
        None,
        gt=0,
        description="The largest epsilon, at the run's delta, that all that this client sends may add up to, over all "
        "runs; it then answers runs of the method `private` only. Default: what a run asks for.",
    )
    account_dir: str = Field(
        "",
        description="Where this client writes down what it has shown in private runs; not to be deleted. Default: "
        "$XDG_STATE_HOME/deltamask, ~/.local/state/deltamask.",
    )
    noise_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Draw the noise of the method `private` from this seed, to repeat an experiment. Whoever knows it "
        "sees through the noise: never set it where images are to stay private.",
    )

    @field_validator("codec")
    @classmethod
    def _codec_or_none(cls, name: str) -> str:
        return name and known_codec(name)

    _known_range = field_validator("pixel_range")(known_pixel_range)

    @property
    def black_and_white(self) -> PixelRange | None:
        """pixel-range as numbers; None is ``auto``."""
        return read_pixel_range(self.pixel_range)

    @property
    def cache_path(self) -> Path:
        """The cache folder, as a path."""
        return Path(self.cache_dir).expanduser() if self.cache_dir else default_cache_path()

    @property
    def account_path(self) -> Path:
        """The folder of the account; raises ConfigError where there is none."""
        return Path(self.account_dir).expanduser() if self.account_dir else default_state_path()

    @property
    def cache_limit_bytes(self) -> int:
        """cache-limit-mb in bytes."""
        return self.cache_limit_mb * 1_000_000


def parse_node_config(values: Mapping[str, Any]) -> NodeConfig:
    """Parse a SuperNode's node config.

    Raises
    ------
    ConfigError
        Naming every wrong key, its value and what is allowed; an unknown key with the nearest known one, and a key of
        the run config as such. Also when partition-id is missing, or not below num-partitions.
    """
    known = [kebab(name) for name in NodeConfig.model_fields]
    if unknown := [_unknown(key, value, known) for key, value in values.items() if key not in known]:
        raise ConfigError("\n".join(unknown))
    if "partition-id" not in values or "num-partitions" not in values:
        raise ConfigError(
            'node config: start the SuperNode with --node-config "partition-id=0 num-partitions=2", '
            "each with a partition-id of its own"
        )
    config = parse(NodeConfig, values, _WHERE)
    if config.partition_id >= config.num_partitions:
        raise ConfigError(
            f"node config: partition-id = {config.partition_id}: must be below num-partitions = {config.num_partitions}"
        )
    return config


def _unknown(key: str, value: Any, known: list[str]) -> str:
    meant = nearest(key, known)
    hint = f"; do you mean {meant}?" if meant else ""
    if key == "dataset":  # the one that is easily taken for a site's own
        hint = "; this client's own images are named by data"
    if key in defaults():
        return f"{_WHERE}: {key} = {value!r}: this is a key of the run config, which is the same for all clients{hint}"
    known_keys = f"; known keys: {', '.join(known)}"
    return f"{_WHERE}: {key} = {value!r}: there is no such key{hint or known_keys}"
