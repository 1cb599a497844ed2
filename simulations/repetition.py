"""How to do a simulated run again: its settings as a file, and the command that reads them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedpipe.data.databases import is_database
from fedpipe.reports.evidence import Repetition

FILE = "run.yaml"


def repetition(config: Mapping[str, Any], data: Sequence[str], seed: int) -> Repetition:
    """Returns the command and the settings of a run.

    A report may travel, so files are named without their folders, and databases not at all: their
    addresses can hold passwords.

    >>> repetition({"name": "small"}, ["/home/jane/new records.csv"], 3).command
    "fedpipe simulate --config ./run.yaml --data 'new records.csv' --seed 3"
    """
    words = ["fedpipe", "simulate", "--config", f"./{FILE}"]
    for source in data:
        words += ["--data", "DATABASE" if is_database(source) else Path(source).name]
    return Repetition(
        command=shlex.join([*words, "--seed", str(seed)]),
        file=FILE,
        settings=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100),
    )
