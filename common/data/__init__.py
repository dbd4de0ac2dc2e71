"""Datasets and their division among clients."""

from common.data.partition import partition_indices
from common.data.sources import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset", "partition_indices"]
