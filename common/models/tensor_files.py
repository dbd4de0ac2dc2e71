"""Tensors of a file: safetensors, or what `torch.save` writes, of which only the tensors are read.

A pickle can run code when it is read, so torch reads it with ``weights_only``, which builds tensors and plain
containers and refuses the rest. Nested dictionaries, as training checkpoints have them, become names with dots: what
stands in ``{"state_dict": {"conv.weight": ...}}`` is ``state_dict.conv.weight``, and `common.models.fit_weights` finds
the network among them.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from common.errors import ModelError, brief, reason_of

__all__ = ["SUFFIXES", "read_tensors"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Of the files that are read."""
_DEPTH = 8  # of dictionaries in each other; a pickle may hold one that contains itself
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file; floats of any width become float32, integers stay what they are.

    Parameters
    ----------
    path
        A file; which of the two formats it has is seen from its first bytes.

    Returns
    -------
    Name -> tensor, dense and on the CPU. The same tensors give the same values whichever format they came in.

    Raises
    ------
    ModelError
        If it is damaged, holds Python objects, no tensors, or tensors of a kind that no network here has.
    """
    where = f"weights = {str(path)!r}"
    try:
        found = dict(_torch_tensors(path)) if _is_torch(path) else load_file(path)
        tensors = {name: _plain(tensor, name, where) for name, tensor in found.items()}
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # pickle, zipfile, torch and safetensors raise many types
        if refused := _refused(error):
            raise ModelError(
                f"{where} holds Python objects beside its tensors ({refused}), which are not read, because that could "
                "run code. Where you trust the file, load it with torch.load(..., weights_only=False) and write its "
                "state_dict() with safetensors.torch.save_file"
            ) from error
        raise ModelError(f"{where} cannot be loaded: {reason_of(error)}; is the file complete?") from error
    if not tensors:
        raise ModelError(f"{where} holds no tensors; name a file with the state_dict of a network")
    return tensors


def _is_torch(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # a safetensors header: its length in 8 bytes, then JSON
        return False
    if path.suffix == ".safetensors":
        if head.startswith((_ZIP, _PICKLE)):  # torch takes the name's word for it
            raise ModelError(f"weights = {str(path)!r} is a file of torch.save: let its name end in .pth")
        return False  # damaged, which safetensors explains
    if head.startswith((_ZIP, _PICKLE)):
        return True
    raise ValueError(f"it begins neither as safetensors nor as what torch.save writes ({brief(head)})")


def _torch_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of it also refuses
        # Files of torch before 1.6 are no zip archives and cannot be mapped into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return _named(content, "", _DEPTH)


def _named(content: Any, name: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name, content.detach()
    elif isinstance(content, Mapping) and depth:
        for key, value in content.items():
            yield from _named(value, f"{name}.{key}" if name else str(key), depth - 1)


def _plain(tensor: torch.Tensor, name: str, where: str) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}".replace("torch.", "")
        raise ModelError(f"{where}: tensor {brief(name)} is no plain one ({kind}); save it as dense floats")
    return tensor.float() if tensor.is_floating_point() else tensor


def _refused(error: Exception) -> str:
    """What `torch.load` will not build, if that is why it fails."""
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript program"
    if not text.startswith("Weights only load failed"):
        return ""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text)
    return brief(found[1]) if found else "of kinds that torch does not name"
