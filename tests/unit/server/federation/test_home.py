import datetime as dt
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedpipe import files
from fedpipe.errors import ConfigError, FederationError, WorkspaceError
from fedpipe.federation import pki
from server.federation.home import PRIVATE, FederationFile, FederationHome, socket_address


def hosts(home: FederationHome) -> set[str]:
    certificate = pki.read_certificate(home.certificates[1].decode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in names}


def test_nothing_in_a_federation_is_readable_by_others(home: FederationHome) -> None:
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert all(not path.stat().st_mode & 0o077 for path in home.root.rglob("*"))


def test_certificate_names_the_public_address_and_loopback(home: FederationHome) -> None:
    assert hosts(home) == {"fed.example.org", "localhost", "127.0.0.1", "::1"}


def test_nothing_but_loopback_is_listened_to_by_default(home: FederationHome) -> None:
    assert home.settings.listen_address == ("127.0.0.1", 9092)


def test_a_certificate_that_cannot_be_kept_leaves_the_one_before_with_its_key(
    home: FederationHome, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, writes = home.certificates, []

    def fill_up(descriptor: int) -> None:
        writes.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fill_up)
    with pytest.raises(OSError, match="No space left"):
        home.renew_certificate(now + dt.timedelta(days=pki.SERVER_DAYS))

    assert len(writes) == 1
    assert home.certificates == before
    key = serialization.load_pem_private_key(before[2], password=None)
    assert isinstance(key, pki.PrivateKey)
    assert pki.read_certificate(before[1].decode()).public_key() == key.public_key()


def test_a_server_key_elsewhere_is_replaced(home: FederationHome, now: dt.datetime) -> None:
    (home.root / "server.pem").write_bytes(home.certificates[1])

    assert home.renew_certificate(now)
    assert home.certificates[2].startswith(PRIVATE)


def test_a_new_host_gets_a_new_certificate(home: FederationHome, now: dt.datetime) -> None:
    path = home.root / "federation.yaml"
    path.write_text(path.read_text().replace("hosts: []", "hosts: [other.example.org]"))

    assert home.renew_certificate(now)
    assert "other.example.org" in hosts(home)


def test_certificate_is_renewed_before_it_expires_and_not_earlier(
    home: FederationHome, now: dt.datetime
) -> None:
    assert not home.renew_certificate(now + dt.timedelta(days=360))
    assert home.renew_certificate(now + dt.timedelta(days=380))


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path, now: dt.datetime) -> None:
    (tmp_path / "thesis.txt").write_text("")

    with pytest.raises(ConfigError, match="an empty one"):
        FederationHome.create(tmp_path, FederationFile.model_validate({"name": "a", "address": "b:1"}), now)


def test_a_directory_open_to_others_is_refused(home: FederationHome) -> None:
    home.root.chmod(0o755)

    with pytest.raises(ConfigError, match="chmod 700"):
        FederationHome(home.root)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_message_byte: 3", "'max_message_byte' in federation.yaml. Did you mean max_message_bytes"),
        ("hosts: [b\u00fccher.example]", "IDNA"),
        ("hosts: [bad host]", "found 'bad host' .hosts.0 in federation.yaml"),
        ("hosts: ['']", "a host's name"),
        ("listen: nonsense", "found 'nonsense'"),
        ("max_calls_per_second: 0", "max_calls_per_second to be greater than 0"),
    ],
)
def test_mistakes_in_the_settings_are_named(home: FederationHome, line: str, told: str) -> None:
    path = home.root / "federation.yaml"
    kept = [each for each in path.read_text().splitlines() if not each.startswith(line.split(":")[0])]
    path.write_text("\n".join([*kept, line]) + "\n")

    with pytest.raises(ConfigError, match=told):
        _ = home.settings


def test_emptied_settings_are_no_settings(home: FederationHome) -> None:
    (home.root / "federation.yaml").write_text("")
    with pytest.raises(ConfigError, match="restore them"):
        _ = home.settings


def test_a_host_that_no_certificate_can_name_leaves_nothing_behind(tmp_path: Path) -> None:
    words = ["federation", "init", "--name=x", "--address=x:1", "--host=b\u00fccher.example"]
    done = subprocess.run(
        [sys.executable, "-m", "fedpipe", *words], check=False, cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "(hosts.0 in the command line)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_one_process_is_up(home: FederationHome) -> None:
    with (
        home.up_lock(),
        pytest.raises(WorkspaceError, match="up already"),
        FederationHome(home.root).up_lock(),
    ):
        pass


def test_a_federation_that_is_down_is_told(home: FederationHome) -> None:
    with pytest.raises(FederationError, match="fedpipe federation up"):
        home.check_up()
    with home.up_lock():
        home.check_up()


def test_sockets_with_long_paths_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()

    assert len(socket_address(folder / "control.sock")) < 100
