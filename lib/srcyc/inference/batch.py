"""Many scans: one after the other in this process, or by the workers of a Dask cluster; nothing is done twice.

What is finished is told by the outputs alone (:mod:`srcyc.inference.finished`), so any process may be killed at any
time and the same command goes on where it was: a worker looks at an output before it computes it, and writes it
complete or not at all. Dask (the extra `batch`) is imported where a cluster is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from srcyc.errors import InputError, SRCycError
from srcyc.inference.finished import Asked, is_finished
from srcyc.inference.options import InferenceOptions
from srcyc.inference.overlap import AT_A_TIME, Check, computing, in_order, never, read, writing
from srcyc.memory import available_memory

if TYPE_CHECKING:
    from srcyc.inference.results import Place
    from srcyc.inference.super_resolver import SuperResolver

_Item = TypeVar("_Item")

Status = Literal["written", "skipped", "refused", "failed"]

#: Times that a scan is tried before it is given up: with what fails, or takes its worker with it.
TRIES = 3
#: Share of the free memory that workers may have together; the rest is for the scheduler and what they share.
_MEMORY_SHARE = 0.9
#: What Dask calls a cluster of its own on this machine.
LOCAL = "local"


@dataclass(frozen=True)
class How:
    """What is the same for all scans.

    Attributes:
        model: the file, at the same path for all workers, and the SHA-256 of it.
        digest: SHA-256 of that file.
        options: what is asked for.
        device: see :class:`~srcyc.inference.super_resolver.SuperResolver`;
        precision: likewise.
        max_memory: GB, likewise.
        preview: draw a picture of each.
        overwrite: replace results of another scan, by another model or with other options.
    """

    model: Path
    digest: str
    options: InferenceOptions
    device: str = "auto"
    precision: str = "auto"
    max_memory: float | None = None
    preview: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Work:
    """One scan, and where its result goes."""

    source: Path
    place: Place


@dataclass(frozen=True)
class Done:
    """What became of a scan.

    Attributes:
        work: which.
        status: ``written``; ``skipped``, because its result was there; ``refused``, the scan or the request is at
            fault; ``failed``, something else, as often as it was tried.
        message: why not, in a sentence.
        tries: times that it was tried.
        warnings: reasons for distrust of what was written.
    """

    work: Work
    status: Status
    message: str = ""
    tries: int = 1
    warnings: tuple[str, ...] = ()


def do(work: Work, how: How, check: Check = never) -> Done:
    """Super-resolve one scan, unless it is done; what is wrong with it is told, never raised.

    Threads may do scans at the same time: see :mod:`srcyc.inference.overlap`.
    """
    try:
        if is_finished(work.place, [work.source], Asked(how.digest, how.options)):
            # Whoever made it may have been killed with nothing left to do but to tidy up.
            work.place.tidy()
            return Done(work, "skipped", tries=0)
    except InputError as error:
        if not how.overwrite:
            return Done(work, "refused", str(error), 0)
    except OSError as error:
        return Done(work, "refused", f"{work.place.volume}: cannot be read ({error.strerror or error}).", 0)
    reason = ""
    for number in range(1, TRIES + 1):
        try:
            return replace(_super_resolve(work, how, check), tries=number)
        except InputError as error:  # the next try would find the same
            return Done(work, "refused", str(error), number)
        except Exception as error:  # noqa: BLE001 - one bad scan does not stop the rest
            reason = f"{work.source}: {' '.join(str(error).split()) or type(error).__name__}"
    return Done(work, "failed", reason, TRIES)


def _super_resolve(work: Work, how: How, check: Check) -> Done:
    from srcyc.inference.results import write_result

    scan = read(work.source)
    with computing(check):
        resolver = _resolver(how.model, how.device, how.precision, how.max_memory)
        result = resolver(scan, how.options, progress=lambda share: check())
    with writing(check):
        work.place.volume.parent.mkdir(parents=True, exist_ok=True)
        work.place.tidy()
        written = write_result(result, scan, work.place, preview=how.preview)
    return Done(work, "written", warnings=tuple(written.sidecar["warnings"]))


@lru_cache(maxsize=1)
def _resolver(model: Path, device: str, precision: str, max_memory: float | None) -> SuperResolver:
    """Load the model once for each process."""
    from srcyc.inference.super_resolver import SuperResolver

    return SuperResolver.load(model, device=device, precision=precision, max_memory=max_memory)


def shard(works: Sequence[_Item], text: str) -> list[_Item]:
    """Give the scans of one job of an array: every n-th, so that each has its share of what one person's scans cost.

    Args:
        works: all, in an order that is the same for all jobs.
        text: ``i/n``, i from 1 to n.

    Raises:
        InputError: not that.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"shard {text!r}", remedy="give i/n with i from 1 to n", options=("shard",))
    return list(works[int(number) - 1 :: int(count)])


def resources(workers: int, cores: int | None = None, memory: int | None = None) -> tuple[int, int | None]:
    """Say how many threads and how many bytes each of several workers on this machine gets: an equal share.

    It is for the two scans that a worker has in hand.

    Args:
        workers: that compute one scan at a time each.
        cores: there are; None: those that this process may use.
        memory: bytes there are; None: what is free.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if memory is None:
        memory = available_memory()
    return max(1, cores // workers), None if memory is None else int(_MEMORY_SHARE * memory / workers)


def in_turn(works: Sequence[Work], how: How) -> Generator[Done, None, None]:
    """Do scans in this process, one computed at a time, and give them in their order."""
    return in_order(lambda work, check: do(work, how, check), works)


def on_dask(
    works: Sequence[Work], how: How, address: str, workers: int | None = None
) -> Generator[Done, None, None]:
    """Do scans by a Dask cluster, in the order in which they get done.

    Scans whose worker dies are taken over by another one when all others are done. Which of the two in its hands it
    died of nobody can tell: those that lose a second worker too get the third one alone, and are given up if they lose
    that.

    Args:
        works: paths are the same for all workers.
        how: they are done.
        address: of a scheduler, or ``local``: workers of our own, that end with this process.
        workers: of a local cluster; None: one for each GPU, else one for each core.

    Raises:
        InputError: Dask is not installed, or nothing answers at the address.
        SRCycError: the scheduler is gone.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"Dask cannot be imported ({error})", remedy="install srcyc[batch]", options=("dask",)
        ) from error
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        # What only waits at a worker is not lost with it.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.admin.tick.limit": "1h",
    }
    with dask.config.set(settings):
        if address == LOCAL:
            count = workers or _natural_count()
            threads, memory = resources(count)
            environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
                cluster: Any = LocalCluster(
                    n_workers=count,
                    threads_per_worker=AT_A_TIME,
                    processes=True,
                    memory_limit=memory or "auto",
                    dashboard_address=None,
                )
        else:
            cluster = address
        try:
            client = Client(cluster, timeout=30)
        except (OSError, ValueError) as error:
            raise InputError(
                f"dask {address!r}: no scheduler answers there ({error})",
                remedy="give the address that its log says, or local",
                options=("dask",),
            ) from error
        try:
            left = list(works)
            for number in range(1, TRIES + 1):
                lost: list[Work] = []
                groups = [[work] for work in left] if number == TRIES else [left]
                for group in groups if left else ():
                    for work, done in _by_workers(client, group, how, address):
                        if done is None:
                            lost.append(work)
                        else:
                            yield done
                left = lost
            for work in left:
                yield Done(work, "failed", f"{work.source}: its worker died {TRIES} times.", TRIES)
        finally:
            client.close()
            if address == LOCAL:
                cluster.close()


def _by_workers(
    client: Any, works: Sequence[Work], how: How, address: str
) -> Iterator[tuple[Work, Done | None]]:
    """Do scans by the workers of a cluster; None for one whose worker died.

    Raises:
        SRCycError: the scheduler is gone.
    """
    from distributed import KilledWorker, as_completed

    futures = {client.submit(_as_worker, work, how, pure=False): work for work in works}
    for future in as_completed(list(futures)):
        work = futures.pop(future)
        try:
            yield work, future.result()
        except KilledWorker:
            yield work, None
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                raise SRCycError(
                    f"the scheduler {address} is gone",
                    remedy="give the same command again, it goes on where it was",
                ) from error
            yield work, Done(work, "failed", f"{work.source}: {error}")
        future.release()


def _as_worker(work: Work, how: How) -> Done:
    """Do a scan in a worker, with the threads that it has for one task, on the GPU that is its own."""
    import torch

    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        torch.set_num_threads(int(threads))
    if how.device == "auto" and torch.cuda.device_count() > 1:
        how = replace(how, device=f"cuda:{_number_of_worker() % torch.cuda.device_count()}")
    return do(work, how)


def _number_of_worker() -> int:
    """Give a number of this worker that its neighbours on the machine do not have: those of a local cluster count."""
    from distributed import get_worker

    name = get_worker().name
    return name if isinstance(name, int) else 0


def _natural_count() -> int:
    """Give one worker for each GPU, else one for each core."""
    import torch

    return torch.cuda.device_count() or resources(1)[0]
