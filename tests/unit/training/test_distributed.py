"""What several processes do together, with real ones over gloo; trainings are in tests/integration."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from srcyc.errors import ConfigError
from srcyc.training.distributed import Processes, processes

TOGETHER = """
import sys
import torch
from torch import nn
from srcyc.training.distributed import LostProcessError, processes

with processes(torch.device("cpu")) as team:
    rank, world = team.rank, team.world
    assert world == 2 and team.is_first == (rank == 0) and team.items(6) == range(3 * rank, 3 * rank + 3)
    a, b, unused = (nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1)))
    a.grad, b.grad = torch.full((2, 3), float(rank)), torch.arange(4.0) * (rank + 1)
    team.average_gradients([a, unused, b])
    assert torch.equal(a.grad, torch.full((2, 3), 0.5)) and torch.equal(b.grad, torch.arange(4.0) * 1.5)
    assert unused.grad is None
    images = torch.arange(6.0).reshape(3, 1, 2) + 10 * rank
    whole = team.gather(images.transpose(1, 2))
    assert whole.shape == (6, 2, 1) and whole[:, 0, 0].tolist() == [0, 2, 4, 10, 12, 14]
    assert torch.equal(team.own(whole), images.transpose(1, 2))
    assert team.mean({"x": float(rank), "y": 3.0}) == {"x": 0.5, "y": 3.0}
    assert team.mean({}) == {}
    assert team.largest(15 * rank) == 15
    team.wait()
    if rank:
        sys.exit(7)
    try:
        team.wait()
    except LostProcessError as error:
        sys.stdout.write(f"first: {error}")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo is used on Linux")
def test_two_processes_do_it_together(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=300
    )
    assert "AssertionError" not in done.stderr, done.stderr
    assert "exitcode  : 7" in done.stderr, done.stderr
    assert "first: another process of this run has ended" in done.stdout


@pytest.mark.parametrize(("rank", "gpus", "taken"), [("1", 2, "cuda:1"), ("2", 2, None)])
def test_each_process_takes_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, rank: str, gpus: int, taken: str | None
) -> None:
    """As on a machine with GPUs, up to the first message to the others."""
    joined: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    for place, name, value in (
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: gpus),
        (torch.cuda, "set_device", joined.append),
        (torch.distributed, "is_torchelastic_launched", lambda: True),
        (torch.distributed, "init_process_group", lambda backend, **_: joined.append(backend)),
        (torch.distributed, "destroy_process_group", lambda: joined.append("left")),
        (torch.distributed, "get_rank", lambda: int(rank)),
        (torch.distributed, "get_world_size", lambda: 3),
    ):
        monkeypatch.setattr(place, name, value)
    if taken is None:
        with pytest.raises(ConfigError, match="2 CUDA devices"), processes(torch.device("cuda")):
            pass
        assert joined == []
        return
    with processes(torch.device("cuda")) as team:
        assert (team.rank, team.world, team.device) == (int(rank), 3, torch.device(taken))
    assert joined == [torch.device(taken), "nccl", "left"]


def test_a_batch_is_shared_equally_or_not_at_all() -> None:
    assert [list(Processes(rank, 2).items(4)) for rank in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match=r"data\.batch_size=4 cannot be shared by 3 processes"):
        Processes(0, 3).items(4)


def test_one_process_needs_no_messages() -> None:
    with processes(torch.device("cpu")) as team:
        assert team == Processes()
        assert team.is_first
        parameter = nn.Parameter(torch.ones(2))
        parameter.grad = torch.tensor([1.0, 2.0])
        team.average_gradients([parameter])
        assert parameter.grad.tolist() == [1, 2]
        images = torch.rand(2, 1, 3)
        assert torch.equal(team.own(team.gather(images)), images)
        assert team.mean({"x": 2.0}) == {"x": 2.0}
        assert team.largest(9) == 9
        team.wait()
        assert not torch.distributed.is_initialized()
