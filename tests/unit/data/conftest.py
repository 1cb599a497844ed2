"""A small schema, frames of text and the real files, shared by the tests of this directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedpipe.data import Schema

NASTY_CELLS = (
    *(
        "",
        " ",
        "\t",
        "N/A",
        "nan",
        "NaN",
        "None",
        "null",
        "inf",
        "-inf",
        "Infinity",
        "1e400",
        "1e99",
        "-1e-99",
    ),
    *("0", "-0", "+1", "1.", ".5", "1.0", "01.000", "1e5", "1E+2", "1e", "e1", ".", "+", "--1", "1_000"),
    *(
        "0x10",
        "1,5",
        "1 000",
        "\uff11\uff12",
        "١٢",
        "²",
        "9" * 31,
        "9" * 32,
        "9" * 500,
        "0." + "1" * 40,
        " 7 ",
    ),
    *(
        "\u00a07",
        "7\u2003",
        "1\x002",
        "\x00",
        "a\x00b",
        "a\x00c",
        "a",
        "A",
        " a ",
        "a\nb",
        "a\r\nb",
        "a\x0bb",
    ),
    *(
        "a\u0085b",
        "\ufeffa",
        "I",
        "\u0131",
        "İ",
        "Σ",
        "ΑΣ",
        "ß",
        "ẞ",
        "É",
        "é",
        "e\u0301",
        "🙂",
        "👩\u200d🔬",
    ),
    *("\U00010570", "x" * 5000, "True", "false", "'", '"', "a,b", "a\\b", "{}", "\x1f", "\x7f", "\uffff"),
    *("-9", "-9.0", "-1e20", "1e20", "yes", "NO"),
)


@pytest.fixture
def nasty_cells() -> tuple[str, ...]:
    """Cells that people, exporters and attackers write."""
    return NASTY_CELLS


@pytest.fixture
def make_schema() -> Callable[..., Schema]:
    """Builds a schema of an age, a state and a company, with the label `disputed`."""

    def build(**changes: Any) -> Schema:
        fields: dict[str, Any] = {
            "label": {"name": "disputed", "classes": {"no": ["n", "false"], "yes": ["y", "true"]}},
            "columns": {
                "age": {"type": "numeric", "minimum": 0, "maximum": 100},
                "state": {"type": "categorical", "vocabulary": ["CA", "New York"]},
                "company": {"type": "categorical", "hash_buckets": 8},
            },
        }
        return Schema.model_validate({**fields, **changes})

    return build


@pytest.fixture
def make_frame() -> Callable[..., pd.DataFrame]:
    """Builds a frame of text from columns of cells."""

    def build(**columns: Any) -> pd.DataFrame:
        return pd.DataFrame({name: pd.Series(list(cells), dtype=str) for name, cells in columns.items()})

    return build


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    path = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real data is not beside this checkout (../shared/data)")
    return path
