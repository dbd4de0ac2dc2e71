"""From the tensors of a file to those of a network: where they stand in the file, and what does not fit.

Whoever wraps a network, trains it or saves more than it puts something before its names: ``module.`` (several GPUs),
``_orig_mod.`` (compiled), ``model.``, ``backbone.``, ``encoder.``, ``visual.`` (CLIP), ``state_dict.`` (training
checkpoints), or several of these. No list of them is kept: whatever stands before all names of the network is taken
off (our choice). What is wanted must all be there, in its shape; nothing is filled with other values.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from common.errors import ModelError, brief
from common.models.tensor_files import read_tensors

__all__ = ["check_finite", "load_weights", "misfit", "network_tensors", "wrong_kind"]

_log = logging.getLogger("flwr")
_SHOWN = 3


def load_weights(model: nn.Module, path: Path, network: str, classifier: str | None = None) -> None:
    """Load a file into a network.

    Parameters
    ----------
    model
        Gets the values, in the types that it has.
    path
        The file.
    network
        What to call it in errors.
    classifier
        The module of that name is no part of the network and may be in the file.

    Raises
    ------
    ModelError
        If the file cannot be read, or does not hold exactly the tensors of this network.
    """
    wanted = model.state_dict()
    found = network_tensors(read_tensors(path), wanted, path)
    if classifier:
        found = {name: tensor for name, tensor in found.items() if not name.startswith(f"{classifier}.")}
    if wrong := misfit(found, wanted) or wrong_kind(found, wanted):
        raise ModelError(f"weights = {str(path)!r} are not those of {network}: {wrong}")
    model.load_state_dict(found)


def network_tensors(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path, usual: str = ""
) -> dict[str, torch.Tensor]:
    """The tensors of a file that stand where a network's do, by the network's names; the log says if others are left.

    Parameters
    ----------
    tensors
        All of the file.
    wanted
        Those of the network; only names and shapes count.
    path
        The file, for the log and for errors.
    usual
        What the library itself puts before the names; the log does not say so.

    Returns
    -------
    What has the prefix that stands before the most names of the network, without it. Where that is less than half of
    them, all tensors.

    Raises
    ------
    ModelError
        If the file holds several networks that fit.
    """
    found = _prefixes(tensors, wanted)
    most = max(found.values(), default=0)
    best = sorted((prefix for prefix, names in found.items() if names == most), key=lambda each: (len(each), each))
    if 2 * most < len(wanted) or "" in best:
        return dict(tensors)
    if len(best) > 1:
        fitting = [prefix for prefix in best if not _other_shapes(_under(prefix, tensors), wanted)]
        if len(fitting) > 1:
            raise ModelError(
                f"weights = {str(path)!r} hold {len(fitting)} networks that fit, with {_listed(fitting)} before their "
                "names; write the one that is meant to a file of its own"
            )
        best = fitting or best
    inner = _under(best[0], tensors)
    if most == len(wanted) and best[0] != usual:
        _log.info("weights %s: took the %d of %d tensors under %s", path, len(inner), len(tensors), brief(best[0]))
    return inner


def misfit(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """What is wrong with tensors for a network: missing ones, others, other shapes; empty if there is nothing."""
    problems = []
    if missing := [name for name in wanted if name not in found]:
        problems.append(f"{len(missing)} of its {len(wanted)} tensors are missing ({_listed(missing)})")
    if others := [name for name in found if name not in wanted]:
        problems.append(f"{len(others)} of the {len(found)} in the file are unexpected ({_listed(others)})")
    if shapes := _other_shapes(found, wanted):
        told = [f"{brief(name)}: {tuple(found[name].shape)}, here {tuple(wanted[name].shape)}" for name in shapes]
        problems.append(f"{len(shapes)} have another shape ({_listed(told)})")
    return "; ".join(problems)


def wrong_kind(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Tensors that are integers where the network has floats, such as quantised weights, or fractions where it counts;
    empty if there are none.
    """
    wrong = [
        f"{brief(name)}: {found[name].dtype}, here {wanted[name].dtype}".replace("torch.", "")
        for name in wanted
        if name in found and not _convertible(found[name], wanted[name])
    ]
    return f"{len(wrong)} are of another kind ({_listed(wrong)})" if wrong else ""


def check_finite(model: nn.Module, what: str) -> None:
    """Refuse NaN and infinite values, which would show only in what is computed with them.

    Raises
    ------
    ModelError
        With the first tensor that has any, and how many.
    """
    bad = [
        (name, int((~tensor.isfinite()).sum()), tensor.numel())
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if bad:
        name, count, size = bad[0]
        more = f", and {len(bad) - 1} more tensors have some" if bad[1:] else ""
        raise ModelError(
            f"{what}: {count:,} of the {size:,} values of {name} are NaN or infinite as float32{more}; name a file of "
            "a training that did not diverge, or copy it again"
        )


def _prefixes(tensors: Iterable[str], wanted: Mapping[str, torch.Tensor]) -> Counter[str]:
    """How many names of the network stand behind each prefix."""
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                found["".join(f"{part}." for part in parts[:cut])] += 1
    return found


def _convertible(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    if wanted.is_floating_point() or not tensor.is_floating_point():
        return tensor.is_floating_point() or not wanted.is_floating_point()
    return bool((tensor.isfinite() & (tensor == tensor.round())).all())


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _other_shapes(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name in wanted if name in found and found[name].shape != wanted[name].shape]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(brief(name) for name in names[:_SHOWN]) + more
