"""Slab streaming: what a stream gives, put together, is what the layer gives for the whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from srcyc.networks.layers import pad_planes
from srcyc.networks.streaming import PLANES, Stream, chained, pointwise, windowed, with_shortcut

#: How nine planes come, the last ones with the last push.
CUTS = [(9,), (8, 1), (5, 4), (6, 1, 1, 1), (5, 2, 2)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streamed(stream: Stream, x: Tensor, cut: Sequence[int]) -> list[Tensor]:
    parts = x.split(list(cut), dim=PLANES)
    return [stream(part, number == len(parts) - 1) for number, part in enumerate(parts)]


def mean_stream(radius: int, mode: str) -> Stream:
    """A mean over ``2 radius + 1`` planes, weighted unevenly so that a turned window shows."""
    weight = torch.arange(1.0, 2 * radius + 2, dtype=torch.float64).reshape(1, 1, -1, 1, 1)
    return windowed(
        lambda window: F.conv3d(window, weight),
        radius,
        lambda w, before, after: pad_planes(w, before, after, mode),
    )


def mean_whole(x: Tensor, radius: int, mode: str) -> Tensor:
    weight = torch.arange(1.0, 2 * radius + 2, dtype=torch.float64).reshape(1, 1, -1, 1, 1)
    return F.conv3d(F.pad(x, (0, 0, 0, 0, radius, radius), mode=mode), weight)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("cut", CUTS)
def test_a_window_remembers_what_the_next_planes_need(cut: Sequence[int], radius: int, mode: str) -> None:
    x = random(1, 1, 9, 3, 2)
    found = streamed(mean_stream(radius, mode), x, cut)
    torch.testing.assert_close(torch.cat(found, dim=PLANES), mean_whole(x, radius, mode), rtol=0, atol=1e-12)
    # Planes are given as soon as they are known: the first push is short of the radius, the last one makes up for it.
    if len(cut) > 1:
        assert [part.shape[PLANES] for part in found] == [cut[0] - radius, *cut[1:-1], cut[-1] + radius]


@pytest.mark.parametrize("cut", CUTS)
def test_a_shortcut_waits_for_its_branch(cut: Sequence[int]) -> None:
    x = random(1, 1, 9, 3, 2)
    branch = chained([mean_stream(1, "constant"), pointwise(torch.tanh), mean_stream(1, "constant")])
    found = torch.cat(streamed(with_shortcut(branch), x, cut), dim=PLANES)
    inner = torch.tanh(mean_whole(x, 1, "constant"))
    torch.testing.assert_close(found, x + mean_whole(inner, 1, "constant"), rtol=0, atol=1e-12)


def test_two_streams_of_one_layer_know_nothing_of_each_other() -> None:
    x, other = random(1, 1, 9, 3, 2), random(1, 1, 9, 3, 2, seed=1)
    first, second = mean_stream(1, "constant"), mean_stream(1, "constant")
    parts = [first(x[:, :, :5], False), second(other[:, :, :5], False)]
    parts += [first(x[:, :, 5:], True), second(other[:, :, 5:], True)]
    torch.testing.assert_close(
        torch.cat(parts[::2], dim=PLANES), mean_whole(x, 1, "constant"), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        torch.cat(parts[1::2], dim=PLANES), mean_whole(other, 1, "constant"), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["window", "shortcut"])
def test_what_is_remembered_is_a_copy_of_no_more_than_is_needed(kind: str) -> None:
    """A view would keep whole slabs alive, and see what becomes of them."""
    x = random(1, 1, 40, 3, 2)
    stream = mean_stream(1, "constant")
    inner = mean_whole(x, 1, "constant")
    expected = inner if kind == "window" else x + inner
    stream = stream if kind == "window" else with_shortcut(stream)
    pushed = x[:, :, :30].clone()
    first = stream(pushed, False)
    pushed.zero_()
    remembered = [
        cell.cell_contents
        for cell in stream.__closure__  # type: ignore[attr-defined]
        if isinstance(cell.cell_contents, Tensor)
    ]
    assert [value.untyped_storage().nbytes() for value in remembered] == [
        {"window": 2, "shortcut": 1}[kind] * 3 * 2 * 8
    ]
    found = torch.cat([first, stream(x[:, :, 30:], True)], dim=PLANES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
