"""Where mibench keeps what a person makes with it: ``$MIBENCH_HOME``, else the platform's data folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """Folder of user cards, weights, trainings in progress and caches. It need not exist yet."""
    configured = os.environ.get("MIBENCH_HOME")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_data_dir("mibench", appauthor=False))


def data_root(dataset: str) -> Path:
    """Folder of a data set's files: ``$MIBENCH_DATA/<dataset>``, else ``<home>/data/<dataset>``."""
    configured = os.environ.get("MIBENCH_DATA")
    return (Path(configured).expanduser() if configured else home() / "data") / dataset
