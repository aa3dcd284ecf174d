from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from srcyc.errors import ConfigError, OutputError
from srcyc_app.refusals import Refusal
from srcyc_app.server import access
from srcyc_app.server.access import Access, Person, Rules, Users, current, main, networks, new_token, require
from srcyc_app.server.actions import Role, action_of


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """A token for each role, and a file that knows them: ``users``."""
    said: list[str] = []
    for role in ("viewer", "operator", "trainer", "admin"):
        main([str(tmp_path / "users"), f"{role}-1", role], said.append)
    main([str(tmp_path / "users"), "eve", "viewer", "--proxy"], lambda text: None)
    return dict(zip(("viewer", "operator", "trainer", "admin"), (text.strip() for text in said), strict=True))


def client(rules: Rules, address: str = "127.0.0.1") -> TestClient:
    def who(request: Any) -> JSONResponse:
        person = current()
        return JSONResponse({"name": person.name, "role": person.role.label, "address": person.address})

    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
    app = Starlette(
        routes=[Route("/{path:path}", who, methods=methods)], middleware=[Middleware(Access, rules=rules)]
    )
    return TestClient(app, base_url="http://localhost", client=(address, 50000))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


#: Who may do it, and nobody with less.
LEAST = {
    "viewer": [
        ("GET", "/datastore/"), ("GET", "/datastore/image"), ("HEAD", "/datastore/image"), ("GET", "/info/"),
        ("GET", "/datastore/image/info"), ("GET", "/train/"), ("GET", "/compare/"), ("GET", "/metrics"),
        ("POST", "/activelearning/random"), ("GET", "/nowhere"),
    ],
    "operator": [
        ("POST", "/infer/srcyc"), ("PUT", "/datastore/"), ("PUT", "/session/"), ("DELETE", "/session/x"),
        ("PUT", "/datastore/image/info"), ("POST", "/batch/infer/srcyc"), ("DELETE", "/batch/infer"),
    ],
    "trainer": [("POST", "/train/srcyc"), ("POST", "/train/"), ("DELETE", "/train/"), ("GET", "/model/x")],
    "admin": [
        ("DELETE", "/datastore/image"), ("DELETE", "/datastore/"), ("PUT", "/model/x"), ("DELETE", "/model/x"),
        ("PUT", "/model/active"), ("GET", "/logs/"), ("GET", "/datastore/dataset"), ("POST", "/nowhere"),
        ("DELETE", "/datastore/label"), ("PATCH", "/infer/srcyc"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("least", LEAST)
def test_each_role_may_do_its_own_and_no_more(tokens: dict[str, str], tmp_path: Path, least: str) -> None:
    served = client(Rules(Users(tmp_path / "users")))
    order = list(LEAST)
    for method, path in LEAST[least]:
        for role in order:
            reply = served.request(method, path, headers=bearer(tokens[role]))
            allowed = order.index(role) >= order.index(least)
            assert reply.status_code == (200 if allowed else 403), (method, path, role)
            if not allowed:
                assert least in reply.json()["detail"] if method != "HEAD" else True
        assert served.request(method, path).status_code == 401


def test_whoever_is_nobody_may_ask_how_it_is(tokens: dict[str, str], tmp_path: Path) -> None:
    served = client(Rules(Users(tmp_path / "users")))
    assert served.get("/health/live").json()["role"] == "nobody"
    assert served.get("/health/ready").status_code == 200
    assert served.get("/health/other").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer sha256:0"},
        {"Authorization": "Basic x"},
        {"Authorization": "Basic " + base64.b64encode(b"admin-1:wrong").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Digest x"},
        {"X-Remote-User": "admin-1"},
        {"X-Remote-User": "eve", "X-Forwarded-For": "127.0.0.1"},
    ],
)
def test_who_says_nothing_that_proves_it_is_nobody(
    tokens: dict[str, str], tmp_path: Path, headers: dict[str, str]
) -> None:
    reply = client(Rules(Users(tmp_path / "users"))).get("/info/", headers=headers)
    assert reply.status_code == 401
    assert "Bearer" in reply.headers["www-authenticate"]
    assert "Basic" in reply.headers["www-authenticate"]


def test_a_hash_is_no_token(tokens: dict[str, str], tmp_path: Path) -> None:
    served = client(Rules(Users(tmp_path / "users")))
    for line in (tmp_path / "users").read_text().splitlines():
        proof = line.split()[2]
        for text in (proof, proof.removeprefix("sha256:")):
            assert served.get("/info/", headers=bearer(text)).status_code == 401


def test_a_token_is_a_password_too(tokens: dict[str, str], tmp_path: Path) -> None:
    """A browser and 3D Slicer ask for one; the name beside it may be any."""
    reply = client(Rules(Users(tmp_path / "users"))).get("/info/", auth=("whoever", tokens["operator"]))
    assert reply.json()["name"] == "operator-1"


# -- a reverse proxy -----------------------------------------------------------------------------------------------


def test_a_proxy_that_is_trusted_says_who_it_is(tokens: dict[str, str], tmp_path: Path) -> None:
    users = Users(tmp_path / "users")
    said = {"X-Remote-User": "eve", "X-Forwarded-For": "1.2.3.4, 10.0.0.7"}
    served = client(Rules(users, networks(["10.1.0.0/16"])), "10.1.2.3")
    assert served.get("/info/", headers=said).json() == {
        "name": "eve",
        "role": "viewer",
        "address": "10.0.0.7",
    }
    assert served.post("/infer/srcyc", headers=said).status_code == 403
    # Known by token only, by nobody, or by a name that is none.
    for name in ("admin-1", "mallory", "a b", "a\tb", "../x", "x" * 100):
        assert served.get("/info/", headers={"X-Remote-User": name}).status_code == 401
    # As a server that listens on IPv6 too sees an address of IPv4.
    mapped = client(Rules(users, networks(["10.1.0.0/16"])), "::ffff:10.1.2.3")
    assert mapped.get("/info/", headers=said).json()["name"] == "eve"
    elsewhere = client(Rules(users, networks(["10.1.0.0/16"])), "10.2.0.1")
    assert elsewhere.get("/info/", headers=said).status_code == 401


def test_without_users_the_proxy_decides_alone() -> None:
    served = client(Rules(None, networks(["10.1.2.3"]), everybody=False), "10.1.2.3")
    assert served.delete("/datastore/", headers={"X-Remote-User": "anna"}).json()["role"] == "admin"
    assert served.get("/info/").status_code == 401
    other = client(Rules(None, networks(["10.1.2.3"]), everybody=False), "10.1.2.4")
    assert other.get("/info/", headers={"X-Remote-User": "anna"}).status_code == 401


def test_from_elsewhere_names_and_addresses_are_not_believed() -> None:
    said = {"X-Remote-User": "anna", "X-Forwarded-For": "1.2.3.4"}
    reply = client(Rules()).get("/info/", headers=said)
    assert reply.json() == {"name": None, "role": "admin", "address": "127.0.0.1"}


def test_addresses_are_checked() -> None:
    assert len(networks(["::1", "10.0.0.0/8", "10.1.2.3/16"])) == 3
    with pytest.raises(ConfigError, match="trusted-proxy"):
        networks(["proxy.example"])


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_a_hash(tokens: dict[str, str], tmp_path: Path) -> None:
    text = (tmp_path / "users").read_text()
    assert not any(token in text for token in tokens.values())
    assert len({*tokens.values()}) == 4
    assert all(len(token) > 40 for token in tokens.values())
    if os.name == "posix":
        assert (tmp_path / "users").stat().st_mode & 0o777 == 0o600


def test_a_name_that_would_be_another_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "users"), "anna viewer proxy\neve", "admin"])
    assert not (tmp_path / "users").exists()


def test_a_changed_file_counts_at_once_and_a_broken_one_changes_nothing(
    tokens: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "users"
    users = Users(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("admin")) + "\n# nobody else\n")
    assert users.of_token(tokens["admin"]) is None
    assert users.of_token(tokens["viewer"]) == Person("viewer-1", Role.VIEWER)
    path.write_text("what is this\n")
    assert users.of_token(tokens["viewer"]) is not None
    path.unlink()
    assert users.of_token(tokens["viewer"]) is not None


@pytest.mark.parametrize(
    "text",
    [
        "anna\n",
        "anna boss proxy\n",
        "anna viewer md5:00\n",
        "anna viewer sha256:00\n",
        "a/b viewer proxy\n",
        "anna nobody x\n",
    ],
)
def test_lines_that_are_no_users_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text("# fine\n" + text)
    with pytest.raises(ConfigError, match="line 2"):
        Users(path)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("anna viewer proxy\n")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod"):
        Users(path)
    with pytest.raises(ConfigError, match="absent"):
        Users(tmp_path / "absent")
    with pytest.raises(OutputError):
        main([str(tmp_path / "no" / "users"), "anna", "viewer"])


def test_a_route_may_ask_for_more() -> None:
    before = access._current.set(Person("anna", Role.OPERATOR))
    try:
        require(Role.OPERATOR, "to look")
        with pytest.raises(Refusal, match="admin"):
            require(Role.ADMIN, "to replace a scan")
    finally:
        access._current.reset(before)
    require(Role.ADMIN, "whatever, for nobody was asked")


def test_tokens_are_never_the_same() -> None:
    assert len({new_token()[0] for _ in range(100)}) == 100


def test_every_route_of_the_server_has_its_role() -> None:
    """A route that is added later and forgotten in the table is an admin's, or at most for looking."""
    from srcyc_app.server.routes import background, compare, datastore, general, infer, models, sessions

    for area in (background, compare, datastore, general, infer, models, sessions):
        for route in area.router.routes:
            for method in route.methods - {"HEAD"}:  # type: ignore[attr-defined]
                path = route.path.replace("{", "").replace("}", "")  # type: ignore[attr-defined]
                assert action_of(method, path).name != "unknown", (method, path)
