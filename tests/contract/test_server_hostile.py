"""Requests that nobody with good intentions sends: refused with 4xx and a sentence, and nothing on disk changes."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import socket
import stat
import struct
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest
import requests

from srcyc.models.model_file import DEFAULT_MODEL

pytestmark = pytest.mark.slow

Reply = requests.Response


@dataclass
class Attacker:
    """What hostile requests are made of.

    Attributes:
        server: under attack.
        scans: for requests that are hostile only in one point.
    """

    server: Any
    scans: Any

    @property
    def scan(self) -> bytes:
        return self.scans.nifti.read_bytes()

    @property
    def victim(self) -> str:
        """The absolute path of a scan that lies beside what the server may read."""
        return str(self.server.cwd / "outside.nii.gz")

    # -- requests ----------------------------------------------------------------------------------------------------

    def infer(
        self, query: str = "image=head", params: Any = "{}", content: Any = None, name: str = "x.nii.gz"
    ) -> Reply:
        text = params if isinstance(params, str | bytes) else json.dumps(params)
        files = None if content is None else {"file": (name, content)}
        return self.server.post(f"/infer/srcyc?{query}", data={"params": text}, files=files)

    def send(self, content: bytes, name: str = "x.nii.gz") -> Reply:
        """Upload for one inference."""
        return self.infer("", content=content, name=name)

    def mark(self, content: bytes, name: str = "x.nii.gz") -> Reply:
        """Send a label map for one inference."""
        return self.server.post("/infer/srcyc?image=head", files={"label": (name, content)})

    def add(
        self, image: str | None, content: bytes | None = None, name: str = "x.nii.gz", params: Any = "{}"
    ) -> Reply:
        """Upload into the datastore."""
        query = "" if image is None else f"?image={quote(image, safe='')}"
        data = {"params": params if isinstance(params, str) else json.dumps(params)}
        content = self.scan if content is None else content
        return self.server.put(f"/datastore/{query}", data=data, files={"file": (name, content)})

    def tag(self, info: Any, image: str = "head") -> Reply:
        text = info if isinstance(info, str) else json.dumps(info)
        return self.server.put(f"/datastore/image/info?image={image}", data={"info": text})

    def label(self, image: str, tag: str, params: str = "{}") -> Reply:
        query = f"image={quote(image, safe='')}&tag={quote(tag, safe='')}"
        return self.server.put(
            f"/datastore/label?{query}", data={"params": params}, files={"label": ("l.nii.gz", self.scan)}
        )

    def session(self, content: bytes, name: str = "x.zip", query: str = "uncompress=true") -> Reply:
        return self.server.put(f"/session/?{query}", files=[("files", (name, content))])

    def train(self, request: Any, query: str = "") -> Reply:
        body = request if isinstance(request, str | bytes) else json.dumps(request)
        return self.server.post(
            f"/train/srcyc{query}", data=body, headers={"content-type": "application/json"}
        )

    def batch(self, request: Any, query: str = "") -> Reply:
        return self.server.post(f"/batch/infer/srcyc{query}", json=request)


# -- content -----------------------------------------------------------------------------------------------------------


def nifti(array: np.ndarray) -> bytes:
    return gzip.compress(nib.Nifti1Image(array, np.eye(4)).to_bytes(), 1)


def nifti_of_a_flat_world() -> bytes:
    """An affine whose third axis has no length."""
    raw = bytearray(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())
    raw[252:256] = struct.pack("<2h", 0, 1)
    raw[280:328] = struct.pack("<12f", 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    return gzip.compress(bytes(raw), 1)


def nifti_claiming(shape: tuple[int, int, int]) -> bytes:
    """A header that promises more voxels than there are."""
    raw = bytearray(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)).to_bytes())
    raw[40:48] = struct.pack("<4h", 3, *shape)
    return gzip.compress(bytes(raw), 1)


def nrrd(*lines: str, data: bytes = b"") -> bytes:
    head = ["NRRD0004", "type: uchar", "dimension: 3", "encoding: raw", "spacings: 1 1 4", *lines]
    return "\n".join(head).encode() + b"\n\n" + data


def mha(data_file: str, size: str = "8 8 8") -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nElementSpacing = 1 1 4\nElementType = MET_UCHAR\n"
        f"DimSize = {size}\nElementDataFile = {data_file}\n"
    ).encode()


def zip_of(members: dict[str, bytes], *, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link is not None:
            entry = zipfile.ZipInfo("link.dcm")
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, link)
    return buffer.getvalue()


def bomb() -> bytes:
    """100 MB of nothing in 100 kB: twice what the servers under test take."""
    return zip_of({"scan.nii": bytes(100_000_000)})


class Shell:
    """What a pickle would do."""

    def __reduce__(self) -> Any:
        return print, ("run",)


DEEP = "[" * 50_000 + "]" * 50_000
LONG = "x" * 5000
ELSEWHERE = str(uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF))

#: Bytes by which a server may grow whatever it is sent, and seconds within which it says no.
GROWTH, SECONDS = 500_000_000, 10.0

Hostile = Callable[[Attacker], Reply]

#: Reach our own classes, whichever server is in front of them.
ANYWHERE: dict[str, Hostile] = {
    # Ids of images.
    "infer a path upwards": lambda a: a.infer("image=../cwd/outside.nii.gz"),
    "infer a path upwards, encoded": lambda a: a.infer("image=..%2Fcwd%2Foutside.nii.gz"),
    "infer an absolute path": lambda a: a.infer(f"image={a.victim}"),
    "infer a system file": lambda a: a.infer("image=/etc/passwd"),
    "infer what lies in the working directory": lambda a: a.infer("image=outside.nii.gz"),
    "infer the working directory": lambda a: a.infer("image=."),
    "infer the studies folder": lambda a: a.infer(f"image={a.server.studies}"),
    "infer the state file": lambda a: a.infer(f"image={a.server.studies}/datastore_v2.json"),
    "infer a zero byte": lambda a: a.infer("image=head%00.nii.gz"),
    "infer a line end": lambda a: a.infer("image=head%0Ahead"),
    "infer a long id": lambda a: a.infer(f"image={LONG}"),
    "infer a file address": lambda a: a.infer("image=file:///etc/passwd"),
    "infer a web address": lambda a: a.infer("image=http://127.0.0.1:1/x.nii.gz"),
    "infer the home folder": lambda a: a.infer("image=~/x.nii.gz"),
    "download a path upwards": lambda a: a.server.get("/datastore/image?image=../cwd/outside"),
    "download an absolute path": lambda a: a.server.get("/datastore/image?image=/etc/passwd"),
    "download the state file": lambda a: a.server.get("/datastore/image?image=datastore_v2.json"),
    "info of a path upwards": lambda a: a.server.get("/datastore/image/info?image=../x"),
    "remove a path upwards": lambda a: a.server.delete("/datastore/image?id=../cwd/outside"),
    "remove an absolute path": lambda a: a.server.delete(f"/datastore/image?id={a.victim}"),
    "remove the state file": lambda a: a.server.delete("/datastore/image?id=datastore_v2.json"),
    "remove the studies folder": lambda a: a.server.delete("/datastore/image?id=."),
    "remove nothing": lambda a: a.server.delete("/datastore/image?id="),
    "remove the unknown": lambda a: a.server.delete("/datastore/image?id=nobody"),
    # Uploads under odd names.
    "add upwards": lambda a: a.add("../evil"),
    "add upwards, other slash": lambda a: a.add("..\\evil"),
    "add at an absolute path": lambda a: a.add(str(a.server.folder / "evil")),
    "add a hidden file": lambda a: a.add(".evil"),
    "add two dots": lambda a: a.add(".."),
    "add a zero byte": lambda a: a.add("evil\0"),
    "add a bell": lambda a: a.add("evil\a"),
    "add from right to left": lambda a: a.add("evil\u202egz.iin"),
    "add the invisible": lambda a: a.add("ev\u200bil"),
    "add a long name": lambda a: a.add(LONG),
    "add a long name of wide characters": lambda a: a.add("山" * 90),
    "add spaces around": lambda a: a.add(" evil "),
    "add a device of Windows": lambda a: a.add("CON"),
    "add a stream of Windows": lambda a: a.add("evil:stream"),
    "add over another": lambda a: a.add("head"),
    # Uploads of odd content.
    "add nothing": lambda a: a.add("evil", b""),
    "add text": lambda a: a.add("evil", b"hello" * 100),
    "add what is cut short": lambda a: a.add("evil", a.scan[:-2000]),
    "add a picture's suffix": lambda a: a.add("evil", b"\x89PNG\r\n\x1a\n", "x.png"),
    "add a program": lambda a: a.add("evil", b"MZ" * 100, "x.exe"),
    "add a pickle": lambda a: a.add("evil", pickle.dumps(Shell()), "x.pt"),
    "add the state file": lambda a: a.add(None, b"{}", "datastore_v2.json"),
    "add four axes": lambda a: a.add("evil", nifti(np.zeros((4, 4, 4, 4), np.float32))),
    "add colours": lambda a: a.add("evil", nifti(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    "add voxels that are no numbers": lambda a: a.add("evil", nifti(np.full((4, 4, 4), np.nan, np.float32))),
    "add a flat world": lambda a: a.add("evil", nifti_of_a_flat_world()),
    "add a huge claim": lambda a: a.add("evil", nifti_claiming((32000, 32000, 32000))),
    "add a file that points elsewhere": lambda a: a.add("evil", mha(a.victim), "x.mha"),
    # Reserved or unusable tags.
    "add with a reserved name": lambda a: a.add("evil", params={"name": "../head.nii.gz"}),
    "add with a reserved path": lambda a: a.add("evil", params={"path": "/etc/passwd"}),
    "add with an unknown domain": lambda a: a.add("evil", params={"domain": "XXL"}),
    "tag the reserved": lambda a: a.tag({"name": "../../x.nii.gz"}),
    "tag a time": lambda a: a.tag({"ts": 0}),
    "tag a spacing": lambda a: a.tag({"spacing": [1, 1, 1]}),
    "tag an unknown domain": lambda a: a.tag({"domain": "../LR"}),
    "tag a domain that is no text": lambda a: a.tag({"domain": {"LR": 1}}),
    "tag a person with a path": lambda a: a.tag({"person": "../../x"}),
    "tag the unknown": lambda a: a.tag({"domain": "LR"}, "nobody"),
    "tag a path upwards": lambda a: a.tag({"domain": "LR"}, "..%2Fhead"),
    # Labels.
    "label upwards": lambda a: a.label("../evil", "final"),
    "label of the unknown": lambda a: a.label("nobody", "final"),
    "label with a tag upwards": lambda a: a.label("head", "../../evil"),
    "label with an absolute tag": lambda a: a.label("head", str(a.server.folder / "evil")),
    "label with a hidden tag": lambda a: a.label("head", ".evil"),
    "label with a zero byte": lambda a: a.label("head", "evil\0"),
    "fetch a label with a tag upwards": lambda a: a.server.get("/datastore/label?label=head&tag=../../cwd"),
    "fetch a label upwards": lambda a: a.server.get("/datastore/label?label=../../cwd/outside&tag=final"),
    "remove a label with a tag upwards": lambda a: a.server.delete("/datastore/label?id=head&tag=../.."),
    "remove a label upwards": lambda a: a.server.delete("/datastore/label?id=../cwd/outside&tag=final"),
    # Params of an inference.
    "image in params": lambda a: a.infer("image=nobody", {"image": a.victim}),
    "a label map by path": lambda a: a.infer(params={"label": a.victim}),
    "a label map with a tag upwards": lambda a: a.infer(params={"labels": "../../cwd"}),
    "a label map of odd tags": lambda a: a.infer(params={"labels": {"final": 1}}),
    "send text as a label map": lambda a: a.mark(b"hello" * 100),
    "send a scan as a label map": lambda a: a.mark(a.scan),
    "send a label map that points elsewhere": lambda a: a.mark(mha(a.victim), "x.mha"),
    "send a label map with a huge claim": lambda a: a.mark(nifti_claiming((32000, 32000, 32000))),
    "weights upwards": lambda a: a.infer(params={"weights": "../models/tiny"}),
    "weights by path": lambda a: a.infer(params={"weights": str(a.server.model_dir / "tiny.safetensors")}),
    "weights that are a list of lists": lambda a: a.infer(params={"weights": [["tiny"]]}),
    "half a character": lambda a: a.infer(params='{"weights": "\\ud800"}'),
    "suffix with a path": lambda a: a.infer(params={"result_extension": "/../../../evil.nrrd"}),
    "spacing of no size": lambda a: a.infer(params={"target_spacing": 1e-300, "force": True}),
    "spacing beyond numbers": lambda a: a.infer(params='{"target_spacing": 1e999}'),
    "spacing that is no number": lambda a: a.infer(params='{"target_spacing": NaN}'),
    "spacing of ten axes": lambda a: a.infer(params={"target_spacing": ",".join("1" * 10)}),
    "device with a command": lambda a: a.infer(params={"device": "cpu; touch evil"}),
    "store what is nobody's": lambda a: a.infer("", {"store": True}, a.scan),
    # Scans that are sent along.
    "send nothing": lambda a: a.send(b""),
    "send text": lambda a: a.send(b"hello" * 100),
    "send what is cut short": lambda a: a.send(a.scan[:-2000]),
    "send a huge claim": lambda a: a.send(nifti_claiming((32000, 32000, 32000))),
    "send a claim below zero": lambda a: a.send(nifti_claiming((-5, 4, 4))),
    "send an NRRD that points elsewhere": lambda a: a.send(
        nrrd("sizes: 8 8 8", f"data file: {a.victim}"), "x.nrrd"
    ),
    "send an NRRD that points upwards": lambda a: a.send(
        nrrd("sizes: 8 8 8", "data file: ../cwd/outside.nii.gz"), "x.nrrd"
    ),
    "send an NRRD with a list": lambda a: a.send(nrrd("sizes: 8 8 8", f"data file: LIST\n{a.victim}"), "x.nrrd"),
    "send an NRRD with a huge claim": lambda a: a.send(nrrd("sizes: 99999 99999 99999", data=b"1"), "x.nrrd"),
    "send an MHA that points elsewhere": lambda a: a.send(mha(a.victim), "x.mha"),
    "send an MHA with a huge claim": lambda a: a.send(mha("LOCAL", "99999 99999 99999") + b"1", "x.mha"),
    "send an MHD that points elsewhere": lambda a: a.send(mha(a.victim), "x.mhd"),
    "send a zip of nothing": lambda a: a.send(zip_of({}), "x.zip"),
    "send a zip of text": lambda a: a.send(zip_of({"a.txt": b"hello"}), "x.zip"),
    "send a zip cut short": lambda a: a.send(a.scans.archive.read_bytes()[:5000], "x.zip"),
    "send a zip bomb": lambda a: a.send(bomb(), "x.zip"),
    "send a zip with a link": lambda a: a.send(zip_of({}, link=a.victim), "x.zip"),
    # Sessions.
    "session upwards": lambda a: a.infer("session_id=../../cwd"),
    "session of somebody else": lambda a: a.infer(f"session_id={ELSEWHERE}"),
    "session that is no id": lambda a: a.server.get("/session/evil"),
    "session unknown": lambda a: a.server.get(f"/session/{ELSEWHERE}"),
    "session two dots": lambda a: a.server.get("/session/%2E%2E"),
    "session of text to unpack": lambda a: a.session(b"hello"),
    "session of a zip bomb": lambda a: a.session(bomb()),
    "session of a zip with a link": lambda a: a.session(zip_of({}, link="/etc/passwd")),
    "session of a tar": lambda a: a.session(b"ustar" * 200, "x.tar"),
    "remove a session upwards": lambda a: a.server.delete("/session/..%5C..%5Ccwd"),
    "remove somebody else's session": lambda a: a.server.delete(f"/session/{ELSEWHERE}"),
    # Model files.
    "send a model file": lambda a: a.server.get("/model/srcyc"),
    "replace a model file": lambda a: a.server.put("/model/srcyc", files={"file": ("x.safetensors", b"evil")}),
    "remove a model file": lambda a: a.server.delete("/model/srcyc"),
}  # fmt: skip

#: Reach the routes of `srcyc serve`; those of MONAI Label's own server answer some of these with 500.
HARDENED: dict[str, Hostile] = {
    "model in params": lambda a: a.server.post(
        "/infer/evil?image=head", data={"params": '{"model": "srcyc"}'}
    ),
    "remove a session of two dots": lambda a: a.server.delete("/session/%2E%2E"),
    "session with a slash": lambda a: a.server.get("/session/..%2F..%2Fcwd"),
    "session with a zero byte": lambda a: a.server.get("/session/evil%00"),
    "session without a file": lambda a: a.server.put("/session/"),
    "session that lasts for ever": lambda a: a.session(a.scan, "x.nii.gz", f"expiry={10**30}"),
    "session that lasts backwards": lambda a: a.session(a.scan, "x.nii.gz", "expiry=-5"),
    "infer with nothing": lambda a: a.infer(""),
    "infer bytes that are no text": lambda a: a.infer("image=%ff%fe%ed%a0%80"),
    "params that are no JSON": lambda a: a.infer(params="{"),
    "params that are a list": lambda a: a.infer(params="[1]"),
    "params that are a number": lambda a: a.infer(params="1"),
    "params without a bottom": lambda a: a.infer(params=DEEP),
    "params with a long number": lambda a: a.infer(params='{"target_spacing": ' + "9" * 5000 + "}"),
    "params with an odd request id": lambda a: a.infer(params={"request_id": "../../x"}),
    "params of two megabytes": lambda a: a.infer(params={"weights": "x" * 2_000_000}),
    "output unknown": lambda a: a.infer("image=head&output=dicom_seg"),
    "model upwards": lambda a: a.server.post("/infer/..%2Fsrcyc?image=head"),
    "tag with no JSON": lambda a: a.tag("{domain: LR}"),
    "tag with a list": lambda a: a.tag('["LR"]'),
    "tag with what is no number": lambda a: a.tag('{"note": NaN}'),
    "tag with infinity": lambda a: a.tag('{"note": 1e999}'),
    "tag without a bottom": lambda a: a.tag('{"note": ' + DEEP + "}"),
    "tag with half a character": lambda a: a.tag('{"note": "\\ud800"}'),
    "tag with a megabyte": lambda a: a.tag({"note": "x" * 1_500_000}),
    "add with no JSON": lambda a: a.add("evil", params="["),
    "add without a file": lambda a: a.server.put("/datastore/?image=evil"),
    "add a file that is a field": lambda a: a.server.put("/datastore/?image=evil", data={"file": "hello"}),
    "label info with no JSON": lambda a: a.server.put("/datastore/label/info?label=head&tag=final", data={"info": "{"}),
    "listing unknown": lambda a: a.server.get("/datastore/?output=evil"),
    "dataset of minus one": lambda a: a.server.get("/datastore/dataset?limit_cases=-1"),
    "dataset beyond numbers": lambda a: a.server.get(f"/datastore/dataset?limit_cases={10**30}"),
    "next sample of an unknown strategy": lambda a: a.server.post("/activelearning/evil", json={}),
    "next sample with a list": lambda a: a.server.post("/activelearning/random", json=[1]),
    "progress of a path": lambda a: a.server.get("/progress/..%5Cx"),
    "progress of the unknown": lambda a: a.server.get(f"/progress/{ELSEWHERE}"),
    "log upwards": lambda a: a.server.get("/logs/?lines=-1"),
    "log of a path": lambda a: a.server.get("/logs/..%2F..%2Fdatastore_v2.json"),
    "graphics card": lambda a: a.server.get("/logs/gpu"),
    "proxy": lambda a: a.server.get("/proxy/dicom/studies"),
    "viewer": lambda a: a.server.get("/ohif/../../etc/passwd"),
    "static upwards": lambda a: a.server.get("/static/..%2f..%2f..%2fetc/passwd"),
    "reload": lambda a: a.server.post("/reload"),
    "scoring": lambda a: a.server.post("/scoring/dice", json={}),
    "slides": lambda a: a.server.post("/infer/wsi/srcyc?image=head", json={}),
    "wrong method": lambda a: a.server.request("PATCH", "/datastore/"),
    "model file upwards": lambda a: a.server.put("/model/..%5Cevil", files={"file": ("x", b"evil")}),
    "model info upwards": lambda a: a.server.get("/model/info/..%5C..%5Cevil"),
    # Training and batches.
    "train the unknown": lambda a: a.server.post("/train/evil", json={}),
    "train a name upwards": lambda a: a.train({"name": "../../evil"}),
    "train an absolute name": lambda a: a.train({"name": str(a.server.folder / "evil")}),
    "train under a packaged model's name": lambda a: a.train({"name": DEFAULT_MODEL}),
    "train from a path": lambda a: a.train({"initial_model": "/etc/passwd"}),
    "train with a preset upwards": lambda a: a.train({"preset": "../../../x"}),
    "train with a file among the settings": lambda a: a.train({"settings": "perceptual.weights=/etc/passwd"}),
    "train with an object among the settings": lambda a: a.train(
        {"settings": "steps=!!python/object/apply:os.system [touch evil]"}
    ),
    "train with an unknown setting": lambda a: a.train({"settings": "__class__.x=1"}),
    "train no steps": lambda a: a.train({"steps": 0}),
    "train endless steps": lambda a: a.train({"steps": "1e400"}),
    "train with a list": lambda a: a.train("[1, 2]"),
    "train with no JSON": lambda a: a.train("{"),
    "train without a bottom": lambda a: a.train('{"name": ' + DEEP + "}"),
    "train on a toaster": lambda a: a.train({"device": "toaster"}),
    "train while everybody waits": lambda a: a.train({}, "?run_sync=true"),
    "train with a megabyte": lambda a: a.train({"settings": "x" * 1_200_000}),
    "batch of a path": lambda a: a.batch({"images": ["../cwd/outside"]}),
    "batch of the unknown": lambda a: a.batch({"images": ["nobody"]}),
    "batch of numbers": lambda a: a.batch({"images": [1, 2]}),
    "batch with unknown weights": lambda a: a.batch({"weights": {"a": 1}}),
    "batch of an unknown kind": lambda a: a.batch({}, "?images=evil"),
    "batch with the unknown": lambda a: a.server.post("/batch/infer/evil", json={}),
    # Who asks, and how much.
    "foreign host": lambda a: a.server.get("/info/", headers={"Host": "evil.example"}),
    "foreign host with our name in it": lambda a: a.server.get("/info/", headers={"Host": "127.0.0.1.evil.example"}),
    "foreign origin": lambda a: a.server.get("/info/", headers={"Origin": "http://evil.example"}),
    "foreign origin on another port": lambda a: a.server.get("/info/", headers={"Origin": "http://127.0.0.1:1"}),
    "no origin": lambda a: a.server.post("/activelearning/random", json={}, headers={"Origin": "null"}),
    "foreign origin asks first": lambda a: a.server.request(
        "OPTIONS",
        "/datastore/image",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"},
    ),
    "form without a boundary": lambda a: a.server.put(
        "/datastore/?image=evil", data=b"--x", headers={"content-type": "multipart/form-data"}
    ),
    "form that is broken": lambda a: a.server.put(
        "/datastore/?image=evil", data=b"--x\r\nevil", headers={"content-type": "multipart/form-data; boundary=x"}
    ),
    "too large": lambda a: a.send(bytes(60_000_000)),
    "too large for the datastore": lambda a: a.add("evil", bytes(60_000_000)),
    "a body where none belongs": lambda a: a.server.delete("/train/", data=bytes(2_000_000)),
}  # fmt: skip


@pytest.fixture(params=["srcyc", "stock"])
def server(request: pytest.FixtureRequest, limited_server: Callable[[str], Any]) -> Any:
    """Each of the two in turn, with 2 GB of memory."""
    return limited_server(request.param)


@pytest.fixture
def attacker(server: Any, scans: Any) -> Attacker:
    return Attacker(server, scans)


@pytest.fixture
def unharmed(server: Any, hash_tree: Callable[..., dict[str, str]]) -> Iterator[None]:
    """Whatever the test does, every file below the server's folders is the same before and after."""

    # What changes without an attack. MONAI Label's own server forgets uploads that are refused.
    talk = [server.log_file, server.model_dir / "logs", server.folder / "app", server.answers]
    if server.kind == "stock":
        talk.append(server.temporary)

    def look() -> dict[str, str]:
        found = hash_tree(server.studies, server.folder)
        # Beside the studies folder are other tests' folders; only what an attack may have put there counts.
        found |= {str(path): "evil" for path in server.studies.parent.glob("*evil*")}
        return {path: what for path, what in found.items() if not path.startswith(tuple(map(str, talk)))}

    before, memory = look(), server.rss()
    yield
    assert server.rss() - memory < GROWTH
    end = time.monotonic() + 60
    while (after := look()) != before and time.monotonic() < end:
        time.sleep(0.1)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert not changed


def check(attacker: Attacker, attack: Hostile, refused: Callable[..., str]) -> None:
    sentence = refused(attacker.server.soon(lambda: attack(attacker), SECONDS))
    for place in (attacker.server.temporary, attacker.server.sessions, attacker.server.studies):
        assert str(place) not in sentence, "where files lie is none of the client's business"
    assert "unexpected" not in sentence


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.usefixtures("unharmed")
def test_hostile_requests_everywhere(attacker: Attacker, refused: Callable[..., str], name: str) -> None:
    check(attacker, ANYWHERE[name], refused)


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.parametrize("name", HARDENED)
@pytest.mark.usefixtures("unharmed")
def test_hostile_requests(attacker: Attacker, refused: Callable[..., str], name: str) -> None:
    check(attacker, HARDENED[name], refused)


def test_there_are_enough() -> None:
    assert len(ANYWHERE) >= 120 and len(ANYWHERE) + len(HARDENED) >= 200
    assert not ANYWHERE.keys() & HARDENED.keys()


# -- what is harmless once its teeth are drawn ----------------------------------------------------------------------


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.usefixtures("unharmed")
def test_params_do_not_choose_another_image_or_model(attacker: Attacker) -> None:
    """MONAI Label lets `params` override both."""
    for image in (attacker.victim, "oblique", "../cwd/outside.nii.gz"):
        reply = attacker.infer(
            "image=head&output=json", {"image": image, "model": "evil", "session": {"x": 1}}
        )
        assert reply.status_code == 200, reply.text
        assert reply.json()["input"]["name"] == "head.nii.gz"


@pytest.mark.usefixtures("unharmed")
def test_the_names_of_uploaded_files_lead_nowhere(attacker: Attacker) -> None:
    for name in (
        "../../evil.nii.gz",
        str(attacker.server.folder / "evil.nii.gz"),
        "..\\..\\evil.nii.gz",
        "%2e%2e/evil.nii.gz",
        *([".."] if attacker.server.kind == "srcyc" else []),  # MONAI Label's own server answers 500
    ):
        reply = attacker.infer("output=json", content=attacker.scan, name=name)
        assert reply.status_code in (200, 422), reply.text
        created = attacker.session(attacker.scan, name, "")
        assert created.status_code in (200, 422), created.text
        if created.status_code == 200:
            assert attacker.server.delete(f"/session/{created.json()['session_id']}").status_code == 200


@pytest.mark.usefixtures("unharmed")
def test_members_of_archives_lead_nowhere(attacker: Attacker) -> None:
    """An archive that only names its members oddly may be used; it must not be unpacked where they point."""
    for name in (
        "../../evil.nii.gz",
        str(attacker.server.folder / "evil.nii.gz"),
        "..\\..\\evil.nii.gz",
        "C:\\evil.nii.gz",
    ):
        archive = zip_of({name: attacker.scan})
        assert attacker.infer("output=json", content=archive, name="x.zip").status_code in (200, 422)
        created = attacker.session(archive)
        assert created.status_code in (200, 422), created.text
        if created.status_code == 200:
            assert attacker.server.delete(f"/session/{created.json()['session_id']}").status_code == 200


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.usefixtures("unharmed")
def test_a_body_that_only_claims_to_be_large(server: Any) -> None:
    """Refused before any of it is read."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(
            f"PUT /datastore/?image=evil HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000000000\r\n\r\n".encode()
        )
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.usefixtures("unharmed")
def test_a_body_that_does_not_tell_its_size(server: Any) -> None:
    """Refused when the limit is reached; until then it is not kept in memory."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(200):
            yield bytes(1_000_000)

    before = server.rss()
    try:
        reply = server.put(
            "/datastore/?image=evil",
            data=endless(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
    except requests.ConnectionError:
        pass  # cut off while it was sending: as good
    else:
        assert reply.status_code == 413, reply.text
    assert server.rss() - before < 150e6
    assert server.get("/info/").ok


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.parametrize(
    "raw",
    [
        b"GET /info/ HTTP/1.1\r\n\r\n",
        b"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"POST /train/srcyc HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["no host", "two hosts", "TLS", "proxy", "negative length", "long address"],
)
def test_broken_http(server: Any, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        reply = b""
        # It may have hung up before all of it was sent.
        with contextlib.suppress(ConnectionError, OSError):
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(4096)
    assert not reply or reply.startswith(b"HTTP/1.1 4"), reply
    assert server.get("/info/").ok


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
def test_a_browser_is_told_to_be_careful(server: Any) -> None:
    reply = server.get("/")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers
    assert "<script" not in reply.text
    own = server.get("/info/", headers={"Origin": server.url})
    assert own.ok, "its own page may ask"


def test_the_log_keeps_to_its_lines(server: Any) -> None:
    """What a client sends does not forge lines of the log."""
    server.get("/datastore/image/info?image=x%0AFORGED%20LINE")
    server.infer("x\nFORGED LINE")
    assert not [line for line in server.log.splitlines() if line.startswith("FORGED LINE")]
