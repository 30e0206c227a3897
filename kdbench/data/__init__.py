"""Data sets, splits and views, as resident tensors. No torch until `load`.

A data set is a registered one (kdbench/data/sets) or any file `<data root>/<name>.npz`; the data root is the folder
that the environment variable KDBENCH_DATA names, else the user's cache folder. `kdbench.data.views` (which imports
torch) makes batches of augmented images from what `load` returns.
"""

from kdbench.data._base import DataInfo, DataSet, data_root, datasets
from kdbench.data.config import DataConfig, problems, resolve
from kdbench.data.find import describe, known, listing, prepare
from kdbench.data.splits import Labelled, Splits, load, split_indices

__all__ = [
    "DataConfig", "DataInfo", "DataSet", "Labelled", "Splits", "data_root", "datasets", "describe", "known", "listing",
    "load", "prepare", "problems", "resolve", "split_indices",
]  # fmt: skip
