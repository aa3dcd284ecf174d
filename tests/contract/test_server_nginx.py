"""docs/nginx.conf.example, run by a real nginx in front of a real server."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from monailabel.client import MONAILabelClient

from srcyc.models.model_file import DEFAULT_MODEL
from srcyc.volumes.volume import read_volume

pytestmark = pytest.mark.slow

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
OPENSSL = shutil.which("openssl")
PASSWORD = ("reader", "with: a colon")


@dataclass
class Proxy:
    """nginx, by the name in its certificate.

    Attributes:
        url: with TLS.
        plain: without.
        certificate: to trust.
        folder: of its files.
    """

    url: str
    plain: str
    certificate: Path
    folder: Path

    def request(self, method: str, path: str, auth: Any = PASSWORD, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, f"{self.url}{path}", auth=auth, verify=str(self.certificate), timeout=120, **options
            )


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Fit the example to this machine; every place must be there, or the example has changed."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def proxy(
    srcyc_server: Any,
    repository: Path,
    new_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    if NGINX is None or OPENSSL is None:
        # Whoever checks a submission has to have them: see .ci/run.
        missing = "nginx" if NGINX is None else "openssl"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {missing}: apt-get install {missing}")
    folder = tmp_path_factory.mktemp("nginx")
    key, certificate, users = folder / "key.pem", folder / "certificate.pem", folder / "users"
    subprocess.run(
        [
            *(OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    hashed = subprocess.run(
        [OPENSSL, "passwd", "-apr1", PASSWORD[1]], check=True, capture_output=True, text=True
    )
    users.write_text(f"{PASSWORD[0]}:{hashed.stdout}")
    secure, plain = new_port(), new_port()
    example = replaced(
        (repository / "docs" / "nginx.conf.example").read_text(),
        ("srcyc.example.org$request_uri", f"localhost:{secure}$request_uri"),
        ("server_name srcyc.example.org", "server_name localhost"),
        ("server 127.0.0.1:8000", f"server 127.0.0.1:{srcyc_server.port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{secure} ssl"),
        ("listen 80 default_server", f"listen 127.0.0.1:{plain} default_server"),
        ("/etc/nginx/srcyc.crt", str(certificate)),
        ("/etc/nginx/srcyc.key", str(key)),
        ("/etc/nginx/srcyc.users", str(users)),
        ("client_max_body_size 4g", "client_max_body_size 45m"),
    )
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # The worker of an nginx that root starts is another user, who may not read root's temporary files.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log {folder}/access.log;\n{temporary}\n{example}\n}}\n"
    )
    command = [NGINX, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", secure), 1):
                break
            time.sleep(0.1)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield Proxy(f"https://localhost:{secure}", f"http://localhost:{plain}", certificate, folder)
    finally:
        process.terminate()
        process.wait(120)


@pytest.mark.parametrize("auth", [None, ("reader", "wrong"), ("nobody", PASSWORD[1]), ("reader", "")])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/"),
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/datastore/image?image=head"),
        ("POST", "/infer/srcyc?image=head"),
        ("DELETE", "/datastore/image?id=head"),
        ("POST", "/train/srcyc"),
    ],
)
def test_without_the_password_there_is_nothing(
    proxy: Proxy, srcyc_server: Any, method: str, path: str, auth: Any
) -> None:
    reply = proxy.request(method, path, auth=auth)
    assert reply.status_code == 401
    assert "Basic" in reply.headers["www-authenticate"]
    assert DEFAULT_MODEL.encode() not in reply.content
    assert "head" in srcyc_server.client.datastore()["objects"]


def test_with_the_password_everything_works(proxy: Proxy, srcyc_server: Any, scans: Any) -> None:
    assert proxy.request("GET", "/info/").json()["name"] == "SRCyc"
    with scans.nrrd.open("rb") as stream:
        reply = proxy.request(
            "POST", "/infer/srcyc?output=image", data={"params": "{}"}, files={"file": ("x.nrrd", stream)}
        )
    through = srcyc_server.volume(reply)
    direct = srcyc_server.volume(srcyc_server.infer(file=scans.nrrd))
    assert (through.data == direct.data).all()
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "strict-transport-security" in reply.headers


def test_the_server_learns_who_it_was(proxy: Proxy, srcyc_server: Any) -> None:
    """And not what a client says of itself."""
    said = {"X-Remote-User": "root", "X-Forwarded-For": "6.6.6.6"}
    for headers in ({}, said):
        assert proxy.request("GET", "/datastore/image/info?image=head", headers=headers).status_code == 200
        last = [line for line in srcyc_server.audit if "action=scan.info" in line][-1]
        assert " user=reader address=127.0.0.1 action=scan.info image=head outcome=done " in last


def test_monai_label_s_client_gets_through(
    proxy: Proxy, scans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows tokens only; a password is one too. docs/server.md shows it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(proxy.certificate))

    def new_client() -> MONAILabelClient:
        # With a token it sends the length of one request's body along with the next: a new one has none yet.
        client = MONAILabelClient(proxy.url, tmpdir=str(tmp_path))
        token = base64.b64encode(":".join(PASSWORD).encode()).decode()
        client.update_auth({"token_type": "Basic", "access_token": token})
        return client

    client = new_client()
    assert "srcyc" in client.info()["models"]
    file, params = client.infer("srcyc", "head", {})
    assert list(read_volume(file).shape) == params["result"]["shape"]
    client = new_client()
    session = client.create_session(str(scans.nifti))["session_id"]
    file, _ = client.infer("srcyc", "", {}, session_id=session)
    assert read_volume(file).shape == (24, 26, 32)
    new_client().remove_session(session)


def test_scans_of_some_size_pass_and_larger_ones_do_not(proxy: Proxy) -> None:
    """nginx takes 1 MB unless it is told otherwise."""
    reply = proxy.request("PUT", "/session/", files={"files": ("x.nii", os.urandom(40_000_000))})
    assert reply.status_code == 200, reply.text
    assert proxy.request("DELETE", f"/session/{reply.json()['session_id']}").status_code == 200
    reply = proxy.request("PUT", "/session/", files={"files": ("x.nii", bytes(48_500_000))})
    assert reply.status_code == 413


def test_the_clear_leads_to_tls(proxy: Proxy) -> None:
    reply = requests.get(f"{proxy.plain}/info/", allow_redirects=False, timeout=120)
    assert reply.status_code == 301
    assert reply.headers["location"] == f"{proxy.url}/info/"


def test_names_and_origins(proxy: Proxy, srcyc_server: Any, refused: Callable[..., str]) -> None:
    """A page of the server's own name may use it; one of another name may not, even with the password."""
    own = proxy.request("POST", "/activelearning/random", json={}, headers={"Origin": proxy.url})
    assert own.status_code == 200, own.text
    refused(
        proxy.request("GET", "/info/", headers={"Origin": "https://evil.example"}), 403, says="evil.example"
    )
    refused(srcyc_server.get("/info/", headers={"Host": "srcyc.example.org"}), 400, says="--allowed-host")
    # Another name in the certificate's request: no handshake at all.
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(proxy.url.replace("localhost", "127.0.0.1"), verify=str(proxy.certificate), timeout=120)
    # Another name in the request only.
    with pytest.raises(requests.exceptions.ConnectionError):
        proxy.request("GET", "/info/", headers={"Host": "evil.example"})


def test_who_hangs_up_is_not_waited_for(proxy: Proxy, srcyc_server: Any, endless: Path) -> None:
    """nginx passes it on, and the inference ends."""
    with (
        endless.open("rb") as stream,
        srcyc_server.asking(
            {"device": "cpu", "weights": DEFAULT_MODEL, "precision": "fp32", "uncertainty": True},
            "running",
            url=proxy.url,
            auth=PASSWORD,
            files={"file": (endless.name, stream)},
            context=ssl.create_default_context(cafile=proxy.certificate),
        ) as identity,
    ):
        pass
    srcyc_server.gives_up(identity)
