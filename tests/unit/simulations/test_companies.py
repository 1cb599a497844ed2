"""The spellings of one company are one client, in exports of different years."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from fedpipe.data.readers import read_raw
from fedpipe.encoding.text import normalize_name
from simulations.division import canonical_company

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "complaints"
SAME = [
    ("Wells Fargo & Company", "WELLS FARGO & COMPANY"),
    ("Bank of America", "BANK OF AMERICA, NATIONAL ASSOCIATION"),
    ("Citibank", "CITIBANK, N.A."),
    ("Capital One", "CAPITAL ONE FINANCIAL CORPORATION"),
    ("BB&T Financial", "BB&T CORPORATION"),
    ("BMO Harris", "BMO HARRIS BANK NATIONAL ASSOCIATION"),
    ("Flagstar Bank", "FLAGSTAR BANK, FSB"),
    ("Equifax", "EQUIFAX, INC."),
    ("Weltman, Weinberg & Reis", "Weltman, Weinberg & Reis Co., L.P.A."),
    ("Navient Solutions, Inc.", "Navient Solutions, LLC."),
    ("TCF National Bank", "TCF NATIONAL BANK"),
    ("Santander Bank US", "SANTANDER BANK, NATIONAL ASSOCIATION"),
    ("Specialized Loan Servicing LLC", "Specialized Loan Servicing Holdings LLC"),
]
APART = (
    *("First National Bank of Omaha", "First National Bank of Pennsylvania", "First Financial, Inc."),
    *("First Bank", "First Holdings", "Credit Systems International, Inc.", "Credit Services", "Company"),
    *("National Credit Systems,Inc.", "National Credit Services, Inc.", "Ally Bank", "Bank of the West"),
    *("Bank of America", "The Bank", "Receivables Management Corporation", "Receivables Management Partners"),
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_company_agree(one: str, other: str) -> None:
    assert canonical_company(one) == canonical_company(other) != ""


def test_companies_with_similar_names_stay_apart() -> None:
    assert len({canonical_company(name) for name in APART}) == len(APART)


@pytest.mark.parametrize("name", ["", "!!!", "Inc.", "THE COMPANY, INC.", "北京银行", " & "])
def test_a_name_of_nothing_but_legal_forms_is_still_a_name_or_none(name: str) -> None:
    assert canonical_company(name) == canonical_company(name.upper())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside this checkout (../shared/data)")
def test_companies_of_the_real_exports_meet_across_files() -> None:
    files = []
    for path in sorted(SHARED.glob("*.csv")):
        frame = read_raw(path)
        (column,) = [name for name in frame.columns if normalize_name(name) == "company"]
        files.append(set(frame[column]))
    assert len(files) == 3
    spelt_alike = [left & right for left, right in combinations(files, 2)]
    met = [
        {canonical_company(name) for name in left} & {canonical_company(name) for name in right}
        for left, right in combinations(files, 2)
    ]
    # The last two files are in different cases: hardly a name is the same, letter for letter.
    assert all(len(found) > len(same) for found, same in zip(met, spelt_alike, strict=True))
    joined: dict[str, set[str]] = {}
    for name in set().union(*files):
        joined.setdefault(canonical_company(name), set()).add(name)
    for one, other in SAME:
        assert {one, other} <= joined[canonical_company(one)]
