"""What the command line refuses before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.errors import ConfigError
from server.prediction.access import KeyRing, digest_key, new_key
from server.prediction.options import ServeOptions
from server.prediction.sources import Catalogue, make_catalogue, parse_labels, parse_policy


def options(**changes: object) -> ServeOptions:
    return ServeOptions(catalogue=Catalogue(), roots=(), **changes)  # type: ignore[arg-type]


def test_others_are_served_with_tls_and_keys_or_on_demand(tmp_path: Path) -> None:
    pem, keys = tmp_path / "pem", tmp_path / "keys"
    pem.write_text("")
    keys.write_text(new_key("clinic")[1])
    options().check()
    options(host="localhost").check()
    options(host="0.0.0.0", insecure=True).check()
    options(host="0.0.0.0", tls_cert=pem, tls_key=pem, api_key_file=keys).check()
    for changes in ({}, {"api_key_file": keys}, {"tls_cert": pem, "tls_key": pem}):
        with pytest.raises(ConfigError, match="--insecure"):
            options(host="0.0.0.0", **changes).check()
    with pytest.raises(ConfigError, match="together"):
        options(tls_cert=pem).check()


@pytest.mark.parametrize(
    "text", ["", "clinic", "clinic:abc", "a b:" + "0" * 64, f"a:{'0' * 64}\na:{'1' * 64}"]
)
def test_a_file_of_keys_is_read_strictly(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError):
        KeyRing(tmp_path / "keys")


def test_a_new_key_is_printed_with_its_line() -> None:
    lines = CliRunner().invoke(app, ["serve", "--new-api-key", "clinic"]).output.splitlines()
    key, line = (text.split()[1] for text in lines)
    assert line == f"clinic:{digest_key(key)}"


@pytest.mark.parametrize("text", ["newest", "latest:0", "latest:x", "1,x", "", "-1", "all:2"])
def test_policies_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="latest"):
        parse_policy(text)


@pytest.mark.parametrize("text", ["stable", "stable=x", "=1", "heart:=1"])
def test_labels_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="LABEL=VERSION"):
        parse_labels([text])


def test_a_directory_of_versions_is_one_model(tmp_path: Path) -> None:
    (tmp_path / "heart" / "1").mkdir(parents=True)
    (tmp_path / "heart" / "1" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    parent = make_catalogue(tmp_path, name=None, policy=parse_policy("latest"), labels={})
    assert [model.name for model in parent.models()] == ["heart"]
    single = make_catalogue(tmp_path / "heart", name=None, policy=parse_policy("latest"), labels={})
    assert [model.name for model in single.models()] == ["heart"]
    with pytest.raises(ConfigError, match="directory of models"):
        make_catalogue(tmp_path / "nowhere", name=None, policy=parse_policy("latest"), labels={})
