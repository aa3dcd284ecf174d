"""What tests of every folder share: how they are shared out, where data lies, and phantoms made in memory."""

from __future__ import annotations

import os

# Everything here is small: more threads only wait for each other, and for the other worker's. Before NumPy and PyTorch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import make_phantom, save_model

REPOSITORY = Path(__file__).resolve().parents[1]

PhantomFactory = Callable[..., np.ndarray]


#: Files whose tests share nothing: each goes to whichever worker is free.
APART = ("test_shipped_models.py", "test_training_distributed.py", "test_training_survival.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file share servers and browsers, so one worker takes them all.

    (pytest-xdist's own groups, `--dist loadgroup`, are lost without a word under pytest 9.2, whose ids are no strings.)
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return nodeid if file.endswith(APART) else file

    return ByFile(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How long each folder took, and each file of more than 20 s; what took a minute is named."""
    folders: Counter[str] = Counter()
    files: Counter[str] = Counter()
    slow = []
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            file = Path(report.location[0])
            folders[file.parent.as_posix()] += report.duration
            files[file.as_posix()] += report.duration
            if report.duration > 60:
                slow.append(f"{report.nodeid} ({report.when}): {report.duration:.0f} s")
    if not folders:
        return
    terminalreporter.section("seconds by folder and file")
    for place, taken in [*sorted(folders.items()), *files.most_common()]:
        if taken > 20 or place in folders:
            terminalreporter.write_line(f"{taken:7.0f}  {place}")
    for line in slow:
        terminalreporter.write_line(f"more than a minute: {line}")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sample_data(repository: Path) -> Path:
    """The scans that the repository ships."""
    return repository / "sample-data"


@pytest.fixture(scope="session")
def shared_dir(repository: Path) -> Path:
    """Published weights and evaluation scans beside the repository, where the project's own machines have them."""
    path = repository.parent / "shared"
    if not path.is_dir():
        pytest.skip(
            f"needs the project's data folder {path.name!r} beside the repository; there is none here"
        )
    return path


@contextmanager
def _file_size_limit(most: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="POSIX resource limits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """``with file_size_limit(bytes)`` does what a full disk does: writes beyond the limit fail with an OSError.

    Only inside the block: pytest's own output may be a file that is longer already.
    """
    return _file_size_limit


@pytest.fixture(scope="session")
def phantom() -> PhantomFactory:
    """Makes heads: ``phantom(shape=(40, 48, 36), seed=0, noise=0.01)`` -> float32 ``(1, *shape)``."""
    return make_phantom


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: it adds nearly nothing, so its result is nearly the classical inverse."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
