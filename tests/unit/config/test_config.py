"""Configurations: every file loads, every mistake is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedpipe.config import config_names, find_config, load_config, parse_config
from fedpipe.errors import ConfigError
from fedpipe.learning import TrainingSettings

ROOT = Path(__file__).parents[3]
SMALL = """
name: small
schema:
  label: {name: ill, classes: {"no": [n], "yes": [y]}}
  columns:
    age: {type: numeric, minimum: 0, maximum: 100}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("Expected ")
    assert len(text) < 500
    return text


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_that_comes_with_fedpipe_loads_by_name_and_by_path(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.description
    assert load_config(str(find_config(name))) == config


def test_the_files_of_the_repository_are_those_that_are_offered() -> None:
    assert config_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_a_configuration_survives_being_stored() -> None:
    config = load_config("breast_cancer")
    stored = config.model_dump(mode="json", by_alias=True)
    assert parse_config(stored, source="stored") == config


def test_a_configuration_is_found_from_anywhere(tmp_path: Path, small: Path) -> None:
    code = (
        "from fedpipe.config import load_config\n"
        "print(load_config('breast_cancer').name, load_config('small.yaml').name)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("breast_cancer small\n", "")


def test_what_is_left_out_has_its_default(small: Path) -> None:
    config = load_config(str(small))
    assert config.training == TrainingSettings.model_validate({})
    assert (config.privacy.enabled, config.privacy.epsilon) == (True, 8.0)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("privacy.delta=1e-6", 1e-6),
        ("privacy.delta=1.0E-6", 1e-6),
        ("privacy.epsilon=4", 4.0),
        ("privacy.epsilon= 2.5 ", 2.5),
        ("privacy.enabled=false", False),
        ("privacy.shares.statistics=0.1", 0.1),
        ("training.num_rounds=1e2", 100),
        ("model.hidden_units=[32, 1e1]", (32, 10)),
        ("model={type: mlp, hidden_units: [8]}", (8,)),
        ("description='a=b, c: d'", "a=b, c: d"),
        ("description=", None),
        ("name=nan", "nan"),
        ("name=infinity", "infinity"),
        ("name=e5", "e5"),
        ("schema.columns.age.maximum=1e3", 1000.0),
        ("schema.columns.new_one={type: numeric, minimum: 0, maximum: 1}", 1.0),
    ],
)
def test_an_override_is_read_as_yaml(small: Path, override: str, value: object) -> None:
    if value is None:
        assert "description" in message(small, override)
        return
    config = load_config(str(small), [override])
    assert repr(value) in repr(config)
    assert config != load_config(str(small))


def test_later_overrides_win(small: Path) -> None:
    config = load_config(str(small), ["privacy.epsilon=1", "privacy.epsilon=2"])
    assert config.privacy.epsilon == 2


@pytest.mark.parametrize(
    ("training", "momentum", "pull"),
    [
        ("{}", 0.0, 0.0),
        ("{momentum: 0.5}", 0.5, 0.0),
        ("{strategy: fedavgm}", 0.9, 0.0),
        ("{strategy: fedavgm, momentum: 0.5}", 0.5, 0.0),
        ("{strategy: fedprox}", 0.0, 0.1),
        ("{strategy: fedprox, proximal_mu: 0, momentum: 0.5}", 0.5, 0.0),
        ("{strategy: fedadam, momentum: 0, proximal_mu: 0, beta_1: 0}", 0.0, 0.0),
    ],
)
def test_a_strategy_brings_its_own_defaults(small: Path, training: str, momentum: float, pull: float) -> None:
    config = load_config(str(small), [f"training={training}"])
    assert (config.training.server_momentum, config.training.local_pull) == (momentum, pull)
    assert parse_config(config.model_dump(mode="json", by_alias=True), source="stored") == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("privacy.epsilon", "--set KEY.PATH=VALUE"),
        ("", "--set KEY.PATH=VALUE"),
        ("=5", "--set KEY.PATH=VALUE"),
        ("privacy..epsilon=5", "--set KEY.PATH=VALUE"),
        (".privacy=5", "--set KEY.PATH=VALUE"),
        ("privacy.epsilon=[1,", "a YAML value"),
        ("privacy.epsilon=2020-99-99", "a YAML value"),
        ("name.first=x", "a group of settings at 'name'"),
        ("privacy.epsilom=3", "Did you mean epsilon?"),
        ("epsilon=3", "Valid names: analyze, data"),
        ("schema.columns.age.minimun=3", "Did you mean minimum?"),
        ("schema.columns.age.type=categorical", "'schema.columns.age.m"),
        ("schema.columns.b={type: numeric, minimum: 1}", "'schema.columns.b.maximum'"),
        ("schema.columns.b={type: number}", "found 'number'"),
        ("schema.columns.b={minimum: 1}", "'schema.columns.b.type' in small.yaml, found none"),
        ("schema.columns.b=5", "schema.columns.b to be a group of settings, found 5"),
        ("schema.columns={}", "at least 1, found 0"),
        ("schema.columns.age.minimum=100", "minimum < maximum, found 100 and 100"),
        ("schema.columns.age.maximum=.inf", "schema.columns.age.maximum"),
        ("schema.key=age", "'age' in one role"),
        ("schema.label.classes={yes: [y], no: [n]}", "quotes"),
        ("schema.label.classes={a: [], b: [a]}", "every spelling to mean one class"),
        ("privacy.epsilon=abc", "a valid number"),
        ("privacy.epsilon=-1", "greater than or equal to 0.01, found -1"),
        ("privacy.epsilon=.nan", "found nan"),
        ("privacy.epsilon=1e400", "found inf"),
        ("privacy.delta=0", "greater than or equal to 0.0000000001"),
        ("privacy.enabled=maybe", "a valid boolean"),
        ("privacy.randomness=weak", "'secure' or 'seeded', found 'weak'"),
        ("privacy.shares.statistics=2", "less than 1"),
        ("privacy.shares={statistics: 0.5, preprocess: 0.4, analyze: 0.2}", "a sum of 1.1"),
        ("privacy=5", "privacy to be a group of settings"),
        ("training=null", "training to be a group of settings"),
        ("training.num_rounds=1.5", "a valid integer"),
        ("training.num_rounds=", "found None"),
        ("training.num_rounds=0", "greater than or equal to 1"),
        ("training.clipping_norm=.inf", "a finite number"),
        ("training.learning_rate=fast", "training.learning_rate to be"),
        ("training.learning_rate=-1", "greater than 0"),
        ("training.kernel=fast", "training.kernel"),
        ("training.strategy=fedsgd", "training.strategy to be 'fedavg', "),
        ("training={strategy: fedavgm, momentum: 0}", "training.momentum > 0 for strategy fedavgm, found 0"),
        ("training={strategy: fedadam, momentum: 0.9}", "training.momentum only with strategy fedavg or"),
        (
            "training.beta_1=0.5",
            "training.beta_1 only with strategy fedadam or fedyogi, found it with fedavg",
        ),
        (
            "training={strategy: fedadagrad, beta_2: 0}",
            "training.beta_2 only with strategy fedadam or fedyogi",
        ),
        ("training={strategy: fedprox, tau: 1}", "training.tau only with strategy fedadagrad or fedadam"),
        ("training.proximal_mu=0.1", "training.proximal_mu only with strategy fedprox, found it with fedavg"),
        ("training={num_rounds: 3, warmup_rounds: 3}", "training.warmup_rounds below num_rounds=3, found 3"),
        ("training.learning_rate_schedule=step", "'constant', 'linear' or 'cosine'"),
        ("training.on_missing=panic", "'retry', 'continue' or 'stop'"),
        ("training.max_retries=-1", "greater than or equal to 0"),
        ("training.min_cohort_fraction=2", "less than or equal to 1"),
        ("model.type=transformer", "model.type"),
        ("model.name=../../etc", "model.name to be text that matches"),
        ("model.hidden_units=wide", "a list"),
        ("model.hidden_units=[0]", "model.hidden_units.0 to be greater than 0"),
        ("federation.partition=random", "'iid', 'dirichlet', 'column' or 'file'"),
        ("federation.num_clients=0", "greater than or equal to 1"),
        ("federation.engine=spark", "federation.engine"),
        ("validation.on_anomaly=panic", "'warn', 'stop' or 'ignore'"),
        ("eval_fraction=1", "less than 1"),
        ("name=Not A Name", "name to be text that matches"),
        ("data.source=[1]", "data.source"),
        (f"name={'x' * 5000}", "..."),
    ],
)
def test_a_bad_override_is_one_line_that_says_what_to_do(small: Path, override: str, expected: str) -> None:
    assert expected in message(small, override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "settings (key: value) in small.yaml, found NoneType"),
        ("[1, 2]", "found list"),
        ("just words", "found str"),
        ("a: [1", "line 1, column 6"),
        ("name: x\n  b: c", "line 2"),
        ("\tname: x", "line 1, column 1"),
        ("name: x\nname: y\n", "key 'name' twice in line 2"),
        ("privacy: {epsilon: 1, delta: 0.1, epsilon: 2}", "key 'epsilon' twice"),
        ("1: 2", "'name'"),
        ("name: small", "'schema' in small.yaml, found none: add it"),
        ("a: 2020-99-99", "dates in quotes"),
        ("? [a]\n: b", "unhashable key"),
        ("a: &a [*a]", "'name'"),
        ("a: *unknown", "undefined alias"),
        ("!!python/object/apply:os.system [ls]", "python/object"),
        ("a: 1\n---\nb: 2", "another document"),
        ("\x00", "YAML text"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(small: Path, text: str, expected: str) -> None:
    small.write_text(text)
    assert expected in message(small)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name: \xe9"])
def test_other_encodings_are_refused(small: Path, content: bytes) -> None:
    small.write_bytes(content)
    assert "UTF-8" in message(small)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("breast_cancr", "Did you mean breast_cancer?"),
        ("breast_cancer.json", "Did you mean breast_cancer?"),
        ("absent/absent.yaml", "check the path"),
        ("absent.yml", "check the path"),
        ("../configs", "check the path"),
        ("", "Valid names: "),
    ],
)
def test_an_unknown_configuration_is_answered_with_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match="Expected a configuration") as caught:
        load_config(name)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("slices", "expected"), [("[age]", "found 'age'"), ("[towm]", "town"), ("[town, town]", "twice")]
)
def test_slices_are_categorical_columns(tmp_path: Path, slices: str, expected: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL + "    town: {type: categorical, vocabulary: [ulm]}\n")
    assert load_config(str(path), ["analyze.slices=[town]"]).analyze.slices == ("town",)
    assert expected in message(path, f"analyze.slices={slices}")


def test_errors_name_settings_as_the_file_does(small: Path) -> None:
    """Not `data_schema`, which is the attribute's name."""
    found = message(small, "data_schema=5")
    assert "known setting, found 'data_schema'" in found
    assert "schema" in found.partition("Valid names")[2] or "Did you mean schema" in found


USERS = """
name: small
schema:
  label: {name: ill, classes: {"no": [n], "yes": [y]}}
  user: patient
  columns: {age: {type: numeric, minimum: 0, maximum: 100}}
privacy: {unit: {column: patient, max_records: 3}}
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.yaml"
    path.write_text(USERS)
    return path


def test_the_unit_is_a_record_unless_a_column_of_users_is_named(users: Path) -> None:
    config = load_config(str(users))
    assert config.user_unit is not None
    assert (config.user_unit.column, config.user_unit.max_records) == ("patient", 3)
    assert load_config(str(users), ["privacy.unit=record"]).user_unit is None
    assert parse_config(config.model_dump(mode="json", by_alias=True), source="stored") == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("privacy.unit.max_records=0", "privacy.unit.max_records to be greater than or equal to 1, found 0"),
        ("privacy.unit.column=nobody", "schema.user to name the column of users, 'nobody'"),
        ("schema.user=null", "found no schema.user: set it"),
        ("privacy.unit={column: patient}", "a setting 'privacy.unit.max_records'"),
        ("privacy.unit=user", "privacy.unit to be 'record', found 'user'"),
        ("privacy.unit=3", "privacy.unit to be a group of settings, found 3"),
        ("privacy.unit.most=3", "a known setting, found 'privacy.unit.most'"),
        ("schema.user=age", "'age' in one role"),
    ],
)
def test_a_unit_that_does_not_fit_is_one_line_that_says_what_to_do(
    users: Path, override: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(users), [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
