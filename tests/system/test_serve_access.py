"""A server as strangers meet it: TLS, keys, slow clients, requests over the limits, a file of models."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.prediction.access import new_key
from tests.system.conftest import Shell
from tests.unit.server.prediction.conftest import save_half

pytestmark = pytest.mark.slow

CLIENT_SECONDS, MAX_BYTES = 1, 4096


class Authority:
    """A certificate authority of its own: `pem` is what clients trust."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.pem = self._sign(self._name, self._key.public_key(), basic)

    def issue(self, folder: Path) -> tuple[Path, Path]:
        """Writes a certificate for this machine's loopback address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        (folder / "cert.pem").write_bytes(self._sign(name, key.public_key(), names))
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return folder / "cert.pem", folder / "key.pem"

    def _sign(self, name: x509.Name, key: Any, extension: x509.ExtensionType) -> bytes:
        now = dt.datetime.now(dt.timezone.utc)
        builder = x509.CertificateBuilder(issuer_name=self._name, subject_name=name, public_key=key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - dt.timedelta(hours=1))
        builder = builder.not_valid_after(now + dt.timedelta(hours=1))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A server with TLS and keys."""

    rest_port: int
    grpc_port: int
    key: str
    authority: Authority

    def web(self, trusted: Authority, *, key: str | None = None) -> httpx.Client:
        """Returns a client that trusts an authority."""
        context = ssl.create_default_context(cadata=trusted.pem.decode())
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.rest_port}", verify=context, headers=headers, trust_env=False
        )

    def predict(
        self, request: Any, *, trusted: Authority, key: str | None = None, timeout: float = 20
    ) -> Any:
        """Returns a gRPC answer."""
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        credentials = grpc.ssl_channel_credentials(trusted.pem)
        with grpc.secure_channel(f"127.0.0.1:{self.grpc_port}", credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            metadata = (("authorization", f"Bearer {key}"),) if key else ()
            return stub.Predict(request, timeout=timeout, metadata=metadata)


@pytest.fixture(scope="module")
def guarded(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server started from a ModelServerConfig, with its own authority and one key."""
    folder = tmp_path_factory.mktemp("guarded")
    save_half(folder / "models" / "half" / "7")
    (folder / "models.config").write_text(
        "model_config_list { config {\n"
        f'  name: "renamed" base_path: "{folder}/models/half" model_platform: "tensorflow"\n'
        '  model_version_policy { specific { versions: 7 } } version_labels { key: "stable" value: 7 }\n'
        "} }\n"
    )
    authority = Authority("right")
    certificate, private = authority.issue(folder)
    key, line = new_key("clinic")
    (folder / "keys").write_text(line)
    ports = _free_ports(2)
    process = shell.launch(
        *("serve", "--model-config-file", str(folder / "models.config")),
        *("--rest-port", str(ports[0]), "--grpc-port", str(ports[1])),
        *("--tls-cert", str(certificate), "--tls-key", str(private), "--api-key-file", str(folder / "keys")),
        *("--client-seconds", str(CLIENT_SECONDS), "--max-request-bytes", str(MAX_BYTES)),
        module="fedpipe",
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[-1].startswith("gRPC"), lines
        assert "(TLS)" in lines[-1]
        yield Guarded(rest_port=ports[0], grpc_port=ports[1], key=key, authority=authority)
    finally:
        process.send_signal(signal.SIGTERM)
        done = shell.finish(process)
    assert done.code == 0, done.err
    assert key not in done.out + done.err


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def make_request(num_rows: int = 1, name: str = "renamed") -> Any:
    from tensorflow_serving.apis import predict_pb2

    from fedpipe.learning.tensorflow_runtime import tf

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.full(num_rows, 3.0, np.float32)))
    return request


def test_clients_that_trust_the_authority_and_have_a_key_are_answered(guarded: Guarded) -> None:
    with guarded.web(guarded.authority, key=guarded.key) as web:
        for path in ("renamed", "renamed/versions/7", "renamed/labels/stable"):
            answer = web.post(f"/v1/models/{path}:predict", json={"instances": [3.0]})
            assert answer.json() == {"predictions": [3.5]}
    answer = guarded.predict(make_request(), trusted=guarded.authority, key=guarded.key)
    assert list(answer.outputs["y"].float_val) == [3.5]


def test_a_client_that_trusts_another_authority_sends_nothing(guarded: Guarded) -> None:
    wrong = Authority("wrong")
    with guarded.web(wrong, key=guarded.key) as web, pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
        web.get("/v1/models/renamed")
    with pytest.raises(grpc.RpcError) as caught:
        guarded.predict(make_request(), trusted=wrong, key=guarded.key)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_comes_without_tls_is_not_answered(guarded: Guarded) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{guarded.rest_port}/healthz", trust_env=False)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_known_key_only_health_is_told(guarded: Guarded, key: str | None) -> None:
    with guarded.web(guarded.authority, key=key) as web:
        answer = web.post("/v1/models/renamed:predict", json={"instances": [3.0]})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert web.get("/v1/models/renamed").status_code == 401
        assert web.get("/readyz").status_code == 200
    with pytest.raises(grpc.RpcError) as caught:
        guarded.predict(make_request(), trusted=guarded.authority, key=key)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_request_over_the_limit_is_refused_and_the_next_is_answered(guarded: Guarded) -> None:
    with guarded.web(guarded.authority, key=guarded.key) as web:
        answer = web.post("/v1/models/renamed:predict", content=b" " * (MAX_BYTES + 1))
        assert answer.status_code == 413
        assert web.post("/v1/models/renamed:predict", json={"instances": [3.0]}).status_code == 200
    with pytest.raises(grpc.RpcError) as caught:
        guarded.predict(make_request(MAX_BYTES), trusted=guarded.authority, key=guarded.key)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    guarded.predict(make_request(), trusted=guarded.authority, key=guarded.key)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/models/renamed:predict HTTP/1.1\r\nhost: a\r\n",
        b"POST /v1/models/renamed:predict HTTP/1.1\r\nx-api-key: KEY\r\ncontent-length: 9\r\n\r\n{",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_a_client_that_keeps_the_server_waiting_is_cut_off(guarded: Guarded, sent: bytes) -> None:
    context = ssl.create_default_context(cadata=guarded.authority.pem.decode())
    with (
        socket.create_connection(("127.0.0.1", guarded.rest_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as waiting,
    ):
        waiting.sendall(sent.replace(b"KEY", guarded.key.encode()))
        # To be cut off without a word is what is wanted.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            assert waiting.recv(1) == b""


def test_a_client_that_asks_slowly_but_steadily_is_not_cut_off(guarded: Guarded) -> None:
    with guarded.web(guarded.authority, key=guarded.key) as web:
        for _ in range(3):
            answer = web.post("/v1/models/renamed:predict", json={"instances": [3.0]})
            assert answer.status_code == 200
            time.sleep(CLIENT_SECONDS * 0.6)


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key"])
@pytest.mark.parametrize("ports", [("0", "-1"), ("-1", "0")], ids=["REST", "gRPC"])
def test_files_that_are_no_certificate_stop_the_start(
    shell: Shell, tmp_path: Path, option: str, ports: tuple[str, str]
) -> None:
    certificate, private = Authority("right").issue(tmp_path)
    {"--tls-cert": certificate, "--tls-key": private}[option].write_text("nothing\n")
    (tmp_path / "models").mkdir()
    done = shell.run(
        *("serve", "--models", str(tmp_path / "models"), "--rest-port", ports[0], "--grpc-port", ports[1]),
        *("--tls-cert", str(certificate), "--tls-key", str(private)),
        module="fedpipe",
    )
    assert done.code == 2
    assert "PEM certificate" in done.err
    assert "Traceback" not in done.err
