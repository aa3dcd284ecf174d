from __future__ import annotations

from pathlib import Path

import torch

from srcyc.data.image_pool import ImagePool


def numbered(first: int, count: int, *shape: int) -> torch.Tensor:
    """A batch whose images are constant and carry a running number."""
    return torch.stack([torch.full(shape or (1, 2, 2, 2), float(first + index)) for index in range(count)])


def numbers(images: torch.Tensor) -> list[float]:
    return images.flatten(1)[:, 0].tolist()


def test_until_it_is_full_images_pass_unchanged() -> None:
    pool = ImagePool(size=6)
    for first in (0, 2, 4):
        batch = numbered(first, 2)
        assert torch.equal(pool.query(batch), batch)
    assert len(pool) == 6


def test_once_full_half_of_the_images_are_exchanged_for_stored_ones() -> None:
    pool = ImagePool(size=10, seed=1)
    pool.query(numbered(0, 10))
    inside = set(range(10))
    exchanged = 0
    for number in range(10, 1010):
        (returned,) = numbers(pool.query(numbered(number, 1)))
        if returned != number:
            exchanged += 1
            assert returned in inside
            inside = inside - {int(returned)} | {number}  # the new one takes the place of the returned one
    assert 430 < exchanged < 570
    assert len(pool) == 10


def test_size_zero_switches_it_off() -> None:
    pool = ImagePool(size=0)
    for first in range(0, 20, 2):
        batch = numbered(first, 2)
        assert torch.equal(pool.query(batch), batch)
    assert len(pool) == 0


def test_nothing_it_returns_or_keeps_carries_a_graph_or_aliases_the_batch() -> None:
    for size in (0, 4):
        pool = ImagePool(size=size)
        batch = numbered(0, 4).requires_grad_()
        assert not pool.query(batch * 1).requires_grad
    pool = ImagePool(size=1, seed=0)
    batch = numbered(7, 1)
    pool.query(batch)
    batch.zero_()
    returned = {numbers(pool.query(numbered(7, 1)))[0] for _ in range(20)}
    assert returned == {7.0}


def test_changing_shapes_share_one_bounded_buffer() -> None:
    pool = ImagePool(size=8, seed=2)
    torch.manual_seed(0)
    seen_before: dict[int, set[float]] = {}
    older = 0
    for step in range(400):
        depth = int(torch.randint(2, 6, ()))
        batch = numbered(10 * step, 2, 1, 4, 4, depth)
        returned = pool.query(batch)
        assert returned.shape == batch.shape
        assert len(pool) <= 8
        old = set(numbers(returned)) - set(numbers(batch))
        assert old <= seen_before.get(depth, set())
        older += len(old)
        seen_before.setdefault(depth, set()).update(numbers(batch))
    assert older > 100  # of 800: less than one shape's half, but a history all the same


def test_a_new_shape_finds_its_way_into_a_full_pool() -> None:
    pool = ImagePool(size=4, seed=0)
    pool.query(numbered(0, 4, 1, 4, 4))
    returned = [numbers(pool.query(numbered(number, 1, 1, 6, 6)))[0] for number in range(100, 160)]
    assert returned != [float(number) for number in range(100, 160)]


def test_an_equal_seed_repeats_and_another_does_not() -> None:
    def run(seed: int) -> list[float]:
        pool = ImagePool(size=5, seed=seed)
        return [number for first in range(0, 200, 4) for number in numbers(pool.query(numbered(first, 4)))]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_the_global_random_state_is_left_alone() -> None:
    pool = ImagePool(size=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for first in range(10):
        pool.query(numbered(first, 1))
    assert torch.equal(torch.rand(3), expected)


def test_a_resumed_pool_continues_bit_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = list(torch.rand(60, 2, 1, 3, 4, 5))
    straight = ImagePool(size=7, seed=11)
    expected = [straight.query(batch) for batch in batches]

    first = ImagePool(size=7, seed=11)
    for batch in batches[:25]:
        first.query(batch)
    torch.save({"pool": first.state_dict()}, tmp_path / "checkpoint.pt")
    for batch in batches[25:]:  # a pool that goes on does not disturb what was saved
        first.query(batch)

    resumed = ImagePool(size=7, seed=999)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["pool"])
    for batch, wanted in zip(batches[25:], expected[25:], strict=True):
        assert torch.equal(resumed.query(batch), wanted)


def test_a_state_in_memory_is_a_snapshot() -> None:
    pool = ImagePool(size=3, seed=0)
    pool.query(numbered(0, 3))
    state = pool.state_dict()
    expected = [numbers(pool.query(numbered(first, 1))) for first in range(10, 30)]
    again = ImagePool(size=3)
    again.load_state_dict(state)
    assert [numbers(again.query(numbered(first, 1))) for first in range(10, 30)] == expected


def test_a_stored_image_takes_the_batchs_precision() -> None:
    pool = ImagePool(size=1, seed=0)
    pool.query(numbered(0, 1).bfloat16())
    assert all(pool.query(numbered(1, 1)).dtype == torch.float32 for _ in range(10))
