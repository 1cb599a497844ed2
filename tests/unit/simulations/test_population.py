"""Records divided among clients: each once, and always in the same way."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedpipe.config import Config
from fedpipe.errors import ConfigError, DataError, WorkspaceError
from simulations.population import SimulatedClient, check_sources, make_population, without_absent_key

MakeConfig = Callable[..., Config]
WriteRecords = Callable[..., Path]


def divide(
    config: Config, files: list[Path], directory: Path, seed: int = 0
) -> tuple[list[SimulatedClient], dict[str, list[str]]]:
    clients = list(make_population(config, files, directory=directory, seed=seed).clients)
    return clients, {client.name: pd.read_parquet(client.source)["record_id"].tolist() for client in clients}


@pytest.mark.parametrize(
    "federation",
    [
        {"num_clients": 4},
        {"num_clients": 7, "partition": "dirichlet", "dirichlet_alpha": 0.3},
        {"partition": "column"},
    ],
    ids=["iid", "dirichlet", "column"],
)
def test_every_record_has_exactly_one_owner(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path, federation: dict[str, Any]
) -> None:
    _, held = divide(make_config(federation=federation), [write_records()], tmp_path / "p")
    assert sorted(record for records in held.values() for record in records) == sorted(
        f"r{n}" for n in range(60)
    )
    assert all(held.values())


def test_clients_of_an_even_division_differ_by_one_record_at_most(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    config = make_config(federation={"num_clients": 11})
    _, held = divide(config, [write_records()], tmp_path / "p")
    assert sorted(len(records) for records in held.values()) == [5] * 6 + [6] * 5
    assert list(held) == [f"client-{n:02d}" for n in range(1, 12)]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_the_division_depends_on_the_seed_alone(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path, partition: str
) -> None:
    config, files = make_config(federation={"num_clients": 4, "partition": partition}), [write_records()]
    _, first = divide(config, files, tmp_path / "a", seed=3)
    _, again = divide(config, files, tmp_path / "b", seed=3)
    _, other = divide(config, files, tmp_path / "c", seed=4)
    assert first == again != other


def test_a_smaller_alpha_skews_labels_more(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    def spread(alpha: float) -> float:
        federation = {"num_clients": 4, "partition": "dirichlet", "dirichlet_alpha": alpha}
        clients = make_population(
            make_config(federation=federation),
            [write_records(400)],
            directory=tmp_path / str(alpha),
            seed=0,
        ).clients
        shares = [(pd.read_parquet(client.source)["ill"] == "y").mean() for client in clients]
        return float(max(shares) - min(shares))

    assert spread(0.1) > 3 * spread(1000.0)


def test_a_column_names_the_clients(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    _, held = divide(make_config(federation={"partition": "column"}), [write_records()], tmp_path / "p")
    assert list(held) == ["clinic-0", "clinic-1", "clinic-2"]
    assert held["clinic-1"] == [f"r{n}" for n in range(1, 60, 3)]


def test_every_file_is_a_client(make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path) -> None:
    files = [write_records(5, "Berlin Mitte.csv"), write_records(7, "köln.csv", start=5)]
    _, held = divide(make_config(federation={"partition": "file"}), files, tmp_path / "p")
    assert {name: len(records) for name, records in held.items()} == {"berlin-mitte": 5, "k-ln": 7}


def test_two_files_of_one_name_are_not_merged(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    files = [write_records(5, "a/data.csv"), write_records(7, "b/data.csv", start=5)]
    with pytest.raises(DataError, match="two alike"):
        divide(make_config(federation={"partition": "file"}), files, tmp_path / "p")


def test_spellings_of_one_owner_s_name_are_one_client(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    rows = ["1,1,ulm,y,St. Anna Inc.", "2,2,ulm,n,st-anna", "3,3,ulm,n,Charité"]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    _, held = divide(make_config(federation={"partition": "column"}), [path], tmp_path / "p")
    assert held == {"charit": ["3"], "st-anna": ["1", "2"]}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep", {"clinic-0": 5, "clinic-1": 1, "others": 4}),
        ("pool", {"clinic-0": 5, "others": 5}),
        ("drop", {"clinic-0": 5, "others": 4}),
    ],
)
def test_small_clients_stay_or_are_pooled_or_left_out(
    make_config: MakeConfig, tmp_path: Path, policy: str, expected: dict[str, int]
) -> None:
    """A client that happens to be called like the pool loses nothing."""
    owners = ["Clinic 0"] * 5 + ["Clinic 1"] + ["Others"] * 4
    path = tmp_path / "records.csv"
    rows = [f"r{n},{n},ulm,{'y' if n % 2 else 'n'},{owner}" for n, owner in enumerate(owners)]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    federation = {"partition": "column", "min_records": 2, "small_clients": policy}
    _, held = divide(make_config(federation=federation), [path], tmp_path / "p")
    assert {name: len(records) for name, records in held.items()} == expected


def test_files_and_keys_are_the_owner_s(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    clients, _ = divide(make_config(), [write_records()], tmp_path / "deep" / "er")
    keys = [client.key_path.read_bytes() for client in clients]
    assert len(set(keys)) == len(clients) == 4
    assert {len(key) for key in keys} == {32}
    for path in (tmp_path / "deep").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_keys_depend_on_the_seed(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    keys = [
        divide(make_config(), [write_records()], tmp_path / str(seed), seed)[0][0].key_path.read_bytes()
        for seed in (0, 1)
    ]
    assert keys[0] != keys[1]


def test_an_unchanged_population_is_not_written_again(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    """A node takes a file with a new time for new records."""
    clients, _ = divide(make_config(), [write_records()], tmp_path / "p")
    before = [client.source.stat().st_mtime_ns for client in clients]
    clients[0].source.chmod(0o644)
    again, _ = divide(make_config(), [write_records()], tmp_path / "p")
    assert [client.source.stat().st_mtime_ns for client in again] == before
    assert stat.S_IMODE(clients[0].source.stat().st_mode) == 0o600


def test_a_built_in_data_set_needs_no_file(make_config: MakeConfig, tmp_path: Path) -> None:
    from fedpipe.config import load_config

    config = load_config("breast_cancer")
    assert check_sources(config, []) == []
    clients = make_population(config, [], directory=tmp_path / "p", seed=0).clients
    assert len(clients) == 10
    assert sum(len(pd.read_parquet(client.source)) for client in clients) == 569


def test_several_files_are_one_pool(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    files = [write_records(30, "a.csv"), write_records(30, "b.csv", start=30)]
    _, held = divide(make_config(), files, tmp_path / "p")
    assert sum(map(len, held.values())) == 60


def test_fewer_records_than_clients_are_refused(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="each of 4 clients, found 3 records: lower"):
        divide(make_config(), [write_records(3)], tmp_path / "p")


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "column", "file"])
def test_records_without_any_known_label_are_refused(
    make_config: MakeConfig, tmp_path: Path, partition: str
) -> None:
    files = []
    for name in ("a.csv", "b.csv"):
        path = tmp_path / name
        path.write_text("record_id,age,town,ill,clinic\n" + "1,2,ulm,Jane Roe,x\n" * 9)
        files.append(path)
    with pytest.raises(DataError, match=r"no, yes in column 'ill'.*schema\.label\.classes") as caught:
        divide(make_config(federation={"partition": partition}), files, tmp_path / "p")
    assert "Jane Roe" not in str(caught.value)


def test_nothing_to_read_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="Expected --data PATH"):
        check_sources(make_config(), [])


@pytest.mark.parametrize("count", [0, 1])
def test_a_division_by_file_needs_several(
    make_config: MakeConfig, write_records: WriteRecords, count: int
) -> None:
    config = make_config(federation={"partition": "file"}, data={"source": "sklearn:digits"})
    with pytest.raises(ConfigError, match=f"two files or more.*found {count}"):
        check_sources(config, [write_records()][:count])


def test_a_division_by_column_needs_its_name_and_the_column(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(federation={"partition": "column"})
    unnamed = config.model_copy(
        update={"data_schema": config.data_schema.model_copy(update={"client_column": None})}
    )
    with pytest.raises(ConfigError, match=r"schema\.client_column"):
        check_sources(unnamed, [])
    path = tmp_path / "records.csv"
    path.write_text("record_id,age,town,ill\n1,2,ulm,y\n")
    with pytest.raises(DataError, match="'clinic'"):
        divide(config, [path], tmp_path / "p")


def test_a_column_that_is_missing_is_found_before_anything_is_written(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "records.csv"
    path.write_text("record_id,agee,town,ill\n1,2,ulm,y\n")
    with pytest.raises(DataError, match=r"'age' in records\.csv.*Did you mean agee"):
        check_sources(make_config(), [path])


def test_a_folder_is_a_client_for_each_file(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    write_records(5, "wards/north.csv")
    write_records(7, "wards/south.csv", start=5)
    config = make_config(federation={"partition": "file"})
    files = [Path(file) for file in check_sources(config, [tmp_path / "wards"])]
    _, held = divide(config, files, tmp_path / "p")
    assert {name: len(records) for name, records in held.items()} == {"north": 5, "south": 7}


def test_only_small_clients_leave_nobody(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    federation = {"partition": "column", "min_records": 100, "small_clients": "drop"}
    with pytest.raises(DataError, match=r"100 records or more, found none.*federation\.min_records"):
        divide(make_config(federation=federation), [write_records()], tmp_path / "p")


def test_what_happened_to_small_clients_is_said(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    federation = {"partition": "column", "min_records": 100, "small_clients": "pool"}
    config = make_config(federation=federation)
    made = make_population(config, [write_records()], directory=tmp_path / "p", seed=0)
    assert made.notes == (
        (
            "3 clients with fewer than 100 records, now or at first, were pooled into 'others' "
            "(federation.small_clients)."
        ),
    )
    assert [client.name for client in made.clients] == ["others"]


def test_hundreds_of_clients_with_a_handful_of_records_are_pooled(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "records.csv"
    owners = [f"Firm {n}" for n in range(813) for _ in range(30 if n < 5 else 1 + n % 4)]
    rows = [f"r{n},{n % 90},ulm,{'y' if n % 3 else 'n'},{owner}" for n, owner in enumerate(owners)]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    federation = {"partition": "column", "min_records": 20, "small_clients": "pool"}
    _, held = divide(make_config(federation=federation), [path], tmp_path / "p")
    assert len(held) == 6
    assert sum(map(len, held.values())) == len(owners)


def test_one_class_and_empty_cells_name_the_setting(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    rows = [f"r{n},{n},ulm,{'y' if n % 2 else ''},x" for n in range(20)]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    with pytest.raises(DataError, match=r"only 'yes' and empty.*schema\.label\.missing=negative"):
        divide(make_config(), [path], tmp_path / "p")
    config = make_config()
    label = config.data_schema.label.model_copy(update={"missing": "negative"})
    schema = config.data_schema.model_copy(update={"label": label})
    _, held = divide(config.model_copy(update={"data_schema": schema}), [path], tmp_path / "q")
    assert sum(map(len, held.values())) == 20


def test_a_header_without_records_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text("record_id,age,town,ill,clinic\n")
    with pytest.raises(DataError, match="a header and nothing below it"):
        divide(make_config(), [path], tmp_path / "p")


def test_exports_without_the_key_are_read_without_it(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    config, keyed = make_config(federation={"num_clients": 2}), write_records()
    unkeyed = tmp_path / "unkeyed.csv"
    unkeyed.write_text("age,town,ill,clinic\n3,ulm,y,a\n4,ulm,n,b\n")
    assert without_absent_key(config, [keyed]) is config
    assert without_absent_key(config, []) is config
    for files in ([unkeyed], [keyed, unkeyed]):
        changed = without_absent_key(config, files)
        assert changed.data_schema.key is None
        assert changed.data_schema.columns == config.data_schema.columns
        assert make_population(changed, files, directory=tmp_path / "p", seed=0).clients


def _owners(tmp_path: Path, **counts: int) -> Path:
    """Writes records of owners, so many of each."""
    path = tmp_path / "owners.csv"
    owners = [owner for owner, count in counts.items() for _ in range(count)]
    rows = [f"r{n},{n},ulm,{'y' if n % 2 else 'n'},{owner}" for n, owner in enumerate(owners)]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("pool", {"big": 2, "others": 9}), ("drop", {"big": 2, "small": 9}), ("keep", {"big": 2, "small": 9})],
)
def test_pooled_owners_stay_pooled_and_others_apart(
    make_config: MakeConfig, tmp_path: Path, policy: str, expected: dict[str, int]
) -> None:
    """A record that moved to another client would meet a second budget there."""
    settings = {"partition": "column", "min_records": 4, "small_clients": policy}
    config, memory = make_config(federation=settings), tmp_path / "pooling.json"
    for counts in ({"big": 5, "small": 3}, {"big": 2, "small": 9}):
        files = [_owners(tmp_path, **counts)]
        made = make_population(config, files, directory=tmp_path / "p", seed=0, pooling=memory)
    sizes = {client.name: len(pd.read_parquet(client.source)) for client in made.clients}
    assert sizes == expected


def test_a_damaged_memory_of_pooling_stops_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    memory = tmp_path / "pooling.json"
    memory.write_text('{"small": "perhaps"}')
    config, files = make_config(federation={"partition": "column"}), [_owners(tmp_path, small=8)]
    with pytest.raises(WorkspaceError, match="damaged"):
        make_population(config, files, directory=tmp_path / "p", seed=0, pooling=memory)
    assert not (tmp_path / "p").exists()


def test_owners_without_names_are_not_remembered(make_config: MakeConfig, tmp_path: Path) -> None:
    config, memory = make_config(federation={"num_clients": 2}), tmp_path / "pooling.json"
    make_population(config, [_owners(tmp_path, a=8)], directory=tmp_path / "p", seed=0, pooling=memory)
    assert not memory.exists()
