"""Users, roles and the audit log of real servers: who saw this patient's scan, who changed the model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factories import save_model

pytestmark = pytest.mark.slow

ROLES = ("viewer", "operator", "trainer", "admin")
#: Who is who.
NAMES = dict(zip(("vera", "otto", "tina", "anna"), ROLES, strict=True))


def make_token(users: Path, name: str, role: str, *options: str) -> str:
    """As docs/server.md shows it."""
    command = [sys.executable, "-m", "srcyc_app.server.access", *options, str(users), name, role]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    users = tmp_path_factory.mktemp("users") / "users"
    found = {name: make_token(users, name, role) for name, role in NAMES.items()}
    make_token(users, "paul", "viewer", "--proxy")
    return users, found


@pytest.fixture(scope="module")
def guarded(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    tiny_model: Path,
    tokens: tuple[Path, dict[str, str]],
) -> Any:
    """A server that asks everybody who they are, and lets a proxy on this machine say so."""
    server = serve(
        "srcyc",
        studies_of("nifti", "nrrd"),
        *("--users", str(tokens[0]), "--trusted-proxy", "127.0.0.1", "--audit-format", "json"),
        *("--allow-model-files", "--user-sessions", "2", "--user-storage", "0.002"),
        model=tiny_model,
        wait=False,
    )
    server.launch()
    server.wait_for(lambda: "SRCyc serves" in server.log, "start")

    def seen() -> bool:
        listing = ask(server, tokens[1]["vera"], "GET", "/datastore/?output=all")
        return {"head", "oblique"} <= listing.json()["objects"].keys()

    server.wait_for(seen, "notice the scans")
    yield server
    server.end()


def ask(server: Any, token: str | None, method: str, path: str, **options: Any) -> Any:
    headers = {**options.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    return server.request(method, path, headers=headers, **options)


def audited(server: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.audit]


def test_without_a_token_there_is_nothing(
    guarded: Any, tokens: tuple[Path, dict[str, str]], scans: Any
) -> None:
    for token in (None, "x", "srcyc-" + "A" * 43, tokens[1]["vera"][:-1], tokens[1]["vera"] + "A"):
        for method, path in (
            ("GET", "/info/"),
            ("GET", "/"),
            ("GET", "/openapi.json"),
            ("GET", "/compare/"),
            ("GET", "/datastore/image?image=head"),
            ("POST", "/infer/srcyc?image=head"),
            ("DELETE", "/datastore/image?id=head"),
            ("POST", "/train/srcyc"),
            ("GET", "/nowhere"),
        ):
            reply = ask(guarded, token, method, path)
            assert reply.status_code == 401, (method, path)
            assert "head" not in reply.text.replace("headers", "")
    large = ask(guarded, None, "PUT", "/datastore/", files={"file": ("x.nii", bytes(3_000_000))})
    assert large.status_code == 401


def test_a_scripted_session_and_what_the_log_says_of_it(
    guarded: Any,
    tokens: tuple[Path, dict[str, str]],
    scans: Any,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    own = tokens[1]
    before = len(audited(guarded))
    scan = {"file": ("Mueller Hans 1950.nii.gz", scans.nifti.read_bytes())}

    # vera looks, and may do no more.
    assert ask(guarded, own["vera"], "GET", "/datastore/image?image=head").status_code == 200
    assert ask(guarded, own["vera"], "GET", "/compare/volume?image=head").status_code == 200
    refused(ask(guarded, own["vera"], "POST", "/infer/srcyc?image=head"), 403, says="operator")
    refused(ask(guarded, own["vera"], "DELETE", "/datastore/image?id=head"), 403, says="admin")
    # otto super-resolves what is there and what he brings, and removes nothing.
    reply = ask(guarded, own["otto"], "POST", "/infer/srcyc?image=head&output=json")
    assert reply.status_code == 200, reply.text
    used = reply.json()["model"]
    assert ask(guarded, own["otto"], "POST", "/infer/srcyc?output=json", files=scan).status_code == 200
    assert ask(guarded, own["otto"], "PUT", "/datastore/?image=mine", files=scan).status_code == 200
    refused(
        ask(
            guarded,
            own["otto"],
            "PUT",
            "/datastore/?image=mine",
            files=scan,
            data={"params": '{"overwrite": true}'},
        ),
        403,
        says="replace",
    )
    refused(ask(guarded, own["otto"], "DELETE", "/datastore/image?id=mine"), 403)
    refused(ask(guarded, own["otto"], "POST", "/train/srcyc", json={}), 403, says="trainer")
    # tina may train, and changes no model by hand.
    refused(ask(guarded, own["tina"], "POST", "/train/srcyc", json={}), 422, says="HR")
    model = {"file": ("m.safetensors", save_model(tmp_path / "m.safetensors", seed=5).read_bytes())}
    refused(ask(guarded, own["tina"], "PUT", "/model/other", files=model), 403, says="admin")
    # anna may do everything.
    assert ask(guarded, own["anna"], "PUT", "/model/other", files=model).status_code == 200
    refused(ask(guarded, own["tina"], "PUT", "/model/active", json={"model": "other"}), 403, says="admin")
    assert ask(guarded, own["anna"], "PUT", "/model/active", json={"model": "other"}).status_code == 200
    refused(ask(guarded, own["anna"], "DELETE", "/model/other"), 409, says="in use")
    reply = ask(guarded, own["otto"], "POST", "/infer/srcyc?image=oblique&output=json")
    assert reply.json()["activation"]["by"] == "anna"
    told = ask(guarded, own["anna"], "PUT", "/model/active", json={"rollback": True}).json()
    assert [entry["name"] for entry in told["history"]] == ["tiny", "other", "tiny"]
    refused(ask(guarded, own["anna"], "PUT", "/model/active", json={"model": 5}), 422)
    assert ask(guarded, own["anna"], "DELETE", "/model/other").status_code == 200
    assert ask(guarded, own["anna"], "DELETE", "/datastore/image?id=mine").status_code == 200
    assert ask(guarded, None, "GET", "/datastore/image?image=head").status_code == 401

    found = audited(guarded)[before:]
    saw = [
        (line.get("user"), line["action"], line["outcome"])
        for line in found
        if line.get("image") == "head" and line["action"].startswith("scan.")
    ]
    assert saw == [
        ("vera", "scan.read", "done"),
        ("vera", "scan.read", "done"),
        ("vera", "scan.infer", "refused"),
        ("vera", "scan.remove", "refused"),
        ("otto", "scan.infer", "done"),
        (None, "scan.read", "refused"),
    ]
    changed = [
        (line["user"], line["action"], line["outcome"])
        for line in found
        if line["action"].startswith("model.")
    ]
    assert changed == [
        ("tina", "model.add", "refused"),
        ("anna", "model.add", "done"),
        ("tina", "model.activate", "refused"),
        ("anna", "model.activate", "done"),
        ("anna", "model.remove", "refused"),
        ("anna", "model.activate", "done"),
        ("anna", "model.activate", "refused"),
        ("anna", "model.remove", "done"),
    ]
    infer = next(line for line in found if line["action"] == "scan.infer" and line["outcome"] == "done")
    assert (infer["model"], infer["sha256"]) == (used["name"], used["sha256"])
    text = "\n".join(guarded.audit)
    assert "Mueller" not in text, "a file's name is no id"
    assert not any(token in text + guarded.log for token in own.values())
    assert (guarded.model_dir / "logs" / "audit.log").stat().st_mode & 0o777 == 0o600


def test_one_user_does_not_take_all_the_room(
    guarded: Any, tokens: tuple[Path, dict[str, str]], scans: Any, refused: Callable[..., str]
) -> None:
    own, small = tokens[1], {"files": ("x.nii.gz", scans.nifti.read_bytes())}
    sessions = [
        ask(guarded, own["otto"], "PUT", "/session/", files=small).json()["session_id"] for _ in range(2)
    ]
    refused(ask(guarded, own["otto"], "PUT", "/session/", files=small), 429, says="2 sessions")
    mine = ask(guarded, own["tina"], "PUT", "/session/", files=small)
    assert mine.status_code == 200, "others are not hindered"
    for session in (*sessions, mine.json()["session_id"]):
        assert ask(guarded, own["otto"], "DELETE", f"/session/{session}").status_code == 200
    large = {"files": ("x.nii", bytes(1_500_000))}
    kept = ask(guarded, own["otto"], "PUT", "/session/", files=large).json()["session_id"]
    refused(ask(guarded, own["otto"], "PUT", "/session/", files=large), 413, says="GB")
    refused(
        ask(guarded, own["otto"], "PUT", "/datastore/?image=more", files={"file": ("x.nii", bytes(900_000))}),
        413,
        says="GB",
    )
    assert ask(guarded, own["otto"], "DELETE", f"/session/{kept}").status_code == 200


def test_a_proxy_says_for_whom_it_asks(guarded: Any, tokens: tuple[Path, dict[str, str]]) -> None:
    said = {"X-Remote-User": "paul", "X-Forwarded-For": "6.6.6.6, 192.0.2.9"}
    assert ask(guarded, None, "GET", "/datastore/image/info?image=head", headers=said).status_code == 200
    assert ask(guarded, None, "POST", "/infer/srcyc?image=head", headers=said).status_code == 403
    assert ask(guarded, None, "GET", "/info/", headers={"X-Remote-User": "anna"}).status_code == 401
    last = [line for line in audited(guarded) if line.get("user") == "paul"]
    assert {line["address"] for line in last} == {"192.0.2.9"}


def test_monai_label_s_client_brings_a_token(guarded: Any, tokens: tuple[Path, dict[str, str]]) -> None:
    client = guarded.client
    client.update_auth({"token_type": "Bearer", "access_token": tokens[1]["otto"]})
    assert "srcyc" in client.info()["models"]
    file, report = client.infer("srcyc", "head", {})
    assert Path(file).exists() and report["model"]


def test_a_user_who_is_taken_out_is_out(guarded: Any, tokens: tuple[Path, dict[str, str]]) -> None:
    users, _ = tokens
    token = make_token(users, "temp", "viewer")
    assert ask(guarded, token, "GET", "/info/").status_code == 200
    lines = users.read_text().splitlines(keepends=True)
    users.write_text("".join(line for line in lines if not line.startswith("temp ")))
    assert ask(guarded, token, "GET", "/info/").status_code == 401


def test_logs_are_rotated_by_another_program(guarded: Any, tokens: tuple[Path, dict[str, str]]) -> None:
    """logrotate moves them and sends SIGHUP."""
    folder = guarded.model_dir / "logs"
    (folder / "audit.log").rename(folder / "audit.log.1")
    guarded.running.send_signal(signal.SIGHUP)

    def begun() -> bool:
        ask(guarded, tokens[1]["vera"], "GET", "/datastore/image/info?image=head")
        return (folder / "audit.log").exists()

    guarded.wait_for(begun, "begin a new log")
    assert guarded.running.poll() is None
    assert audited(guarded)[-1]["user"] == "vera"


def test_the_command_of_the_docs_answers(
    guarded: Any, tokens: tuple[Path, dict[str, str]], repository: Path
) -> None:
    """docs/server.md: who saw this patient's scan, who changed the model."""
    assert ask(guarded, tokens[1]["vera"], "GET", "/datastore/image?image=head").status_code == 200
    own = {"model": "tiny"}
    assert ask(guarded, tokens[1]["anna"], "PUT", "/model/active", json=own).status_code == 200
    commands = re.findall(r"^grep .*audit\.log.*$", (repository / "docs" / "server.md").read_text(), re.M)
    assert len(commands) == 2
    for command, word in zip(commands, ("vera", "anna"), strict=True):
        command = command.replace("/srv/srcyc/logs", str(guarded.model_dir / "logs")).replace("IMAGE", "head")
        said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
        assert word in said


# -- starting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--users", "absent")], ids=["nobody asked", "no file"])
def test_no_address_for_others_without_asking_who_they_are(
    serve: Callable[..., Any], studies_of: Callable[..., Path], options: tuple[str, ...]
) -> None:
    server = serve("srcyc", studies_of("nifti"), *options, wait=False)
    server.end()
    command = server.command()
    command[command.index("--host") + 1] = "0.0.0.0"
    server.command = lambda: command
    process = server.launch()
    assert process.wait(120) == 2
    assert "--users" in server.log


def test_with_users_it_may_listen_anywhere(
    serve: Callable[..., Any], studies_of: Callable[..., Path], tokens: tuple[Path, dict[str, str]]
) -> None:
    server = serve("srcyc", studies_of("nifti"), "--users", str(tokens[0]), wait=False)
    server.end()
    command = server.command()
    command[command.index("--host") + 1] = "0.0.0.0"
    server.command = lambda: command
    server.launch()
    server.wait_for(lambda: "SRCyc serves" in server.log, "start")
    assert "TLS" in server.log
    assert ask(server, None, "GET", "/info/").status_code == 401
    assert ask(server, tokens[1]["vera"], "GET", "/info/").ok
    # Without --trusted-proxy nobody's word counts.
    assert ask(server, None, "GET", "/info/", headers={"X-Remote-User": "paul"}).status_code == 401
    server.end()


def test_on_loopback_nobody_is_asked_and_everything_is_noted(srcyc_server: Any) -> None:
    assert srcyc_server.get("/datastore/image/info?image=head").ok
    last = [line for line in srcyc_server.audit if "action=scan.info" in line][-1]
    assert " image=head outcome=done status=200 " in last
    assert " address=127.0.0.1 " in last
    assert "user=" not in last
