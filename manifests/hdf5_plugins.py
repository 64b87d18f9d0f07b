"""HDF5 without plug-ins: no code is loaded because a file asks for a filter."""

from __future__ import annotations

import os
import sys


def disable() -> None:
    """Switch off dynamic loading in HDF5, for this process and the ones it starts.

    Meant to run before h5py is imported for the first time; where it was already, the folders that
    are searched are taken away as well. Only programs of our own call this: a set is read without
    any of HDF5's filters, and a host program may have plug-ins for files of its own.

    Source: HDF5 reference manual, H5PL: `::` is the value that stands for no plug-ins at all.
    """
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    h5py = sys.modules.get("h5py")
    if h5py is not None:
        for _ in range(h5py.h5pl.size()):
            h5py.h5pl.remove(0)
