"""Datasets: labels are at hand, images are read when they are asked for."""

from common.data.catalogue import SOURCES
from common.data.sources import is_local, open_split
from common.data.split import Loaded, Split

__all__ = ["SOURCES", "Loaded", "Split", "is_local", "open_split"]
