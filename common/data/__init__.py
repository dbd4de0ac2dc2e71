"""Datasets and their division among clients."""

from common.data.catalogue import SOURCES
from common.data.hold_out import hold_out
from common.data.partition import partition_indices
from common.data.sources import is_local, open_split
from common.data.split import Loaded, Split

__all__ = ["SOURCES", "Loaded", "Split", "hold_out", "is_local", "open_split", "partition_indices"]
