"""The one formula x = M (y + delta) + P R r: what the scan says is kept, and slabs are the whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from srcyc.enhancement import enhance, enhance_in_slabs, take_back
from srcyc.networks import Estimate, Generator, Sampling, SliceResDNet, SRResDNet
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along, area_matrix

KINDS = ("sliceresdnet", "srresdnet")
#: Even and odd numbers of rows, columns and slices; whole and fractional factors.
SCANS = [((24, 10, 6), 24, 0.8), ((25, 9, 5), 17, 1.0), ((23, 12, 4), 33, 0.6)]


def generator(kind: str = "sliceresdnet", seed: int = 0) -> Generator:
    """A small network whose every layer does something, as if it had been trained."""
    torch.manual_seed(seed)
    if kind == "srresdnet":
        network: Generator = SRResDNet(features=4, depth=1)
        network.resdnet.tail.scale_weight(10)  # type: ignore[operator, union-attr]
        spread = 0.3
    else:
        network, spread = SliceResDNet(features=8, depth=1), 0.15
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "weight.original" not in name:
                parameter.add_(spread * torch.randn_like(parameter))
    return network.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def whole(network: Generator, y: Tensor, axis: AxisAcquisition) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        image, delta = enhance(network, y[None, None], [axis])[0]
    return image[0, 0], None if delta is None else delta[0, 0]


def in_slabs(
    network: Generator, y: Tensor, axis: AxisAcquisition, slab: int = 8, **options: object
) -> tuple[Tensor, Tensor]:
    image = torch.full((*y.shape[:2], axis.fine), torch.nan)
    delta = enhance_in_slabs(network, y, axis, image, slab=slab, **options)  # type: ignore[arg-type]
    return image, delta


# -- the formula -------------------------------------------------------------------------------------------------


class Told(SliceResDNet):
    """Answers with what it is given, so that the formula is seen alone."""

    between: Tensor
    slices: Tensor | None

    def estimate(self, upscaled: Tensor, samplings: Sequence[Sampling]) -> Estimate:
        self.asked = (upscaled, list(samplings))
        return Estimate(self.between, self.slices)


@pytest.mark.parametrize("corrected", [True, False])
def test_it_is_the_formula(corrected: bool) -> None:
    network, axis = Told(features=8, depth=1), AxisAcquisition.of(17, 5, 0.7)
    y, network.between = random(1, 1, 4, 6, 5), random(1, 1, 4, 6, 40, seed=1) - 0.5
    network.slices = 0.1 * random(1, 1, 4, 6, 5, seed=2) if corrected else None
    ((image, delta),) = enhance(network, y, [axis])
    m, p = torch.from_numpy(axis.upscaling).float(), torch.from_numpy(axis.null_space).float()
    r = network.between @ torch.from_numpy(area_matrix(40, 17)).float().T
    slices = y if network.slices is None else y + network.slices
    torch.testing.assert_close(image, slices @ m.T + r @ p.T, rtol=0, atol=1e-5)
    assert (delta is None) == (network.slices is None)
    if network.slices is not None:
        assert torch.equal(delta, network.slices)
    upscaled, samplings = network.asked
    known = torch.from_numpy(AxisAcquisition.of(20, 5, 0.7).upscaling).float()
    torch.testing.assert_close(upscaled, y @ known.T, rtol=0, atol=1e-5)
    assert samplings == [Sampling(17 / 5, 0.7)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "fine", "ratio"), SCANS)
def test_the_result_is_what_the_scanner_would_have_seen_as_the_corrected_scan(
    kind: str, shape: tuple[int, int, int], fine: int, ratio: float
) -> None:
    """A x = y + delta, for any weights, within the regularisation of A^+."""
    network, y, axis = generator(kind), random(*shape), AxisAcquisition.of(fine, shape[2], ratio)
    image, delta = whole(network, y, axis)
    corrected = y if delta is None else y + delta
    seen = apply_along(image, axis.matrix, -1)
    # What A^+ leaves of y is the classical inverse's business: r adds nothing to it.
    without = apply_along(apply_along(corrected, axis.upscaling, -1), axis.matrix, -1)
    assert float((seen - without).norm() / y.norm()) < 1e-4
    assert float((seen - corrected).norm() / y.norm()) < 2e-3
    assert float((image - apply_along(corrected, axis.upscaling, -1)).abs().max()) > 0.01
    assert (delta is None) == (kind == "srresdnet")
    if delta is not None:
        assert float(delta.abs().max()) > 0.003


def test_a_smooth_scan_is_reproduced_to_a_ten_thousandth() -> None:
    network, axis = generator(), AxisAcquisition.of(24, 6, 0.8)
    i, j, k = (torch.linspace(-1, 1, n) for n in (12, 10, 6))
    y = 0.6 + 0.3 * torch.cos(i)[:, None, None] * torch.sin(2 * j)[None, :, None] * k
    image, delta = in_slabs(network, y, axis)
    seen = apply_along(image, axis.matrix, -1)
    assert float((seen - y - delta).norm() / y.norm()) < 1e-4
    held, none = in_slabs(network, y, axis, correct_slices=False)
    assert float((apply_along(held, axis.matrix, -1) - y).norm() / y.norm()) < 1e-4
    assert not none.any()
    assert float(delta.norm() / y.norm()) > 1e-3
    # The two differ by the correction alone: r is the same.
    torch.testing.assert_close(image - held, apply_along(delta, axis.upscaling, -1), rtol=0, atol=1e-5)


def test_without_the_projection_the_scan_is_no_longer_reproduced() -> None:
    network, y, axis = generator("srresdnet"), random(12, 9, 6), AxisAcquisition.of(24, 6)
    (held, _), (free, _) = (in_slabs(network, y, axis, project=project) for project in (True, False))
    a = axis.matrix
    assert float((apply_along(free, a, -1) - y).norm()) > 3 * float((apply_along(held, a, -1) - y).norm())
    # What is projected is r alone.
    r = free - apply_along(y, axis.upscaling, -1)
    expected = apply_along(y, axis.upscaling, -1) + apply_along(r, axis.null_space, -1)
    torch.testing.assert_close(held, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shape", "fine", "ratio"), SCANS)
def test_an_untrained_network_gives_the_classical_inverse_exactly(
    shape: tuple[int, int, int], fine: int, ratio: float
) -> None:
    torch.manual_seed(0)
    network, y = SliceResDNet(features=8, depth=1).eval(), random(*shape)
    axis = AxisAcquisition.of(fine, shape[2], ratio)
    image, delta = whole(network, y, axis)
    classical = apply_along(y, axis.upscaling, -1)
    assert torch.equal(image, classical)
    assert delta is not None and not delta.any()
    slabs, none = in_slabs(network, y, axis)
    torch.testing.assert_close(slabs, classical, rtol=0, atol=1e-6)
    assert not none.any()


# -- slabs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "fine", "ratio"), SCANS)
@pytest.mark.parametrize("slab", [1, 2, 3, 6, 7, 16, 100])
def test_slabs_equal_the_whole(
    kind: str, shape: tuple[int, int, int], fine: int, ratio: float, slab: int
) -> None:
    network, y, axis = generator(kind), random(*shape), AxisAcquisition.of(fine, shape[2], ratio)
    image, delta = in_slabs(network, y, axis, slab)
    expected, change = whole(network, y, axis)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(delta, torch.zeros_like(y) if change is None else change, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_scans_of_a_few_rows_pass(kind: str, rows: int) -> None:
    network, y, axis = generator(kind), random(rows, 3, 4), AxisAcquisition.of(10, 4)
    image, _ = in_slabs(network, y, axis, slab=1)
    torch.testing.assert_close(image, whole(network, y, axis)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [(0,), (1,), (0, 1)])
def test_a_flip_is_the_flipped_scans_answer_turned_back(kind: str, flip: tuple[int, ...]) -> None:
    network, y, axis = generator(kind), random(25, 9, 5), AxisAcquisition.of(17, 5, 0.8)
    image, delta = in_slabs(network, y, axis, slab=6, flip=flip)
    expected, change = whole(network, y.flip(flip), axis)
    torch.testing.assert_close(image, expected.flip(flip), rtol=0, atol=1e-5)
    if change is not None:
        torch.testing.assert_close(delta, change.flip(flip), rtol=0, atol=1e-5)
    assert float((image - in_slabs(network, y, axis)[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("flip", [(), (0, 1)])
@pytest.mark.parametrize("background", [0.0, -0.02])
def test_empty_space_is_the_classical_inverse_and_the_head_is_computed_on_its_box(
    flip: tuple[int, ...], background: float
) -> None:
    network, axis = generator(), AxisAcquisition.of(20, 5)
    y = torch.full((60, 50, 5), background)
    y[28:33, 21:26] = random(5, 5, 5)
    image, delta = in_slabs(network, y, axis, slab=4, flip=flip)
    reach = network.reach
    box = (slice(28 - reach, 33 + reach), slice(21 - reach, 26 + reach))
    expected, change = whole(network, y[box].flip(flip) if flip else y[box], axis)
    assert change is not None
    if flip:
        expected, change = expected.flip(flip), change.flip(flip)
    torch.testing.assert_close(image[box], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(delta[box], change, rtol=0, atol=1e-5)
    outside = torch.ones(60, 50, dtype=torch.bool)
    outside[box] = False
    classical = apply_along(y, axis.upscaling, -1)
    torch.testing.assert_close(image[outside], classical[outside], rtol=0, atol=1e-6)
    assert not delta[outside].any()
    assert float((image - classical)[~outside].abs().max()) > 0.01


def test_a_scan_without_empty_space_and_a_flat_one_are_computed_whole() -> None:
    network, axis = generator(), AxisAcquisition.of(12, 4)
    for y in (random(20, 14, 4), torch.full((20, 14, 4), 0.5)):
        torch.testing.assert_close(
            in_slabs(network, y, axis)[0], whole(network, y, axis)[0], rtol=0, atol=1e-5
        )


def test_a_share_of_the_correction_can_be_taken_back() -> None:
    network, y, axis = generator(), random(1, 1, 8, 10, 6)[0, 0], AxisAcquisition.of(24, 6, 0.8)
    results = []
    for corrected in (True, False):
        image = torch.empty(8, 10, 24)
        results.append((image, enhance_in_slabs(network, y, axis, image, slab=8, correct_slices=corrected)))
    (image, delta), (without, _) = results
    expected = 0.25 * image + 0.75 * without, 0.25 * delta
    assert (image - without).abs().max() > 0.01
    take_back(image, delta, axis, 0.75)
    torch.testing.assert_close((image, delta), expected, atol=1e-5, rtol=0)


def test_progress_rises_to_one_and_the_scan_stays_as_it_is() -> None:
    network, y, axis = generator(), random(40, 6, 4), AxisAcquisition.of(12, 4)
    before, told = y.clone(), list[float]()
    in_slabs(network, y, axis, slab=4, flip=(0,), progress=told.append)
    assert len(told) > 4
    assert all(a < b for a, b in pairwise(told))
    assert told[-1] == 1.0
    assert torch.equal(y, before)


def test_bf16_layers_give_an_fp32_image_that_keeps_the_scan() -> None:
    """The network alone computes in half precision; what puts the image together does not."""
    network, y, axis = generator().bfloat16(), random(12, 10, 6), AxisAcquisition.of(24, 6)
    image, delta = in_slabs(network, y, axis)
    assert image.dtype == delta.dtype == torch.float32
    corrected = y + delta
    without = apply_along(apply_along(corrected, axis.upscaling, -1), axis.matrix, -1)
    assert float((apply_along(image, axis.matrix, -1) - without).norm() / y.norm()) < 1e-4
    exact, _ = in_slabs(generator(), y, axis)
    assert 0 < float((image - exact).abs().max()) < 0.1 * float(exact.abs().max())


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_different_factors_is_its_items_one_by_one(kind: str) -> None:
    network, y = generator(kind), random(3, 1, 10, 8, 5)
    axes = [AxisAcquisition.of(fine, 5, ratio) for fine, ratio in ((10, 1.0), (23, 0.6), (23, 0.9))]
    calls: list[int] = []
    estimate = network.estimate
    network.estimate = lambda x, s: calls.append(len(x)) or estimate(x, s)  # type: ignore[assignment, func-returns-value]
    together = enhance(network, y, axes)
    # On the scan's own slices all items have one shape, whatever their factors.
    assert calls == ([3] if kind == "sliceresdnet" else [1, 1, 1])
    for item, axis in enumerate(axes):
        alone = enhance(network, y[item : item + 1], [axis])[0]
        assert alone.image.shape == (1, 1, 10, 8, axis.fine)
        torch.testing.assert_close(together[item].image, alone.image, rtol=0, atol=1e-5)
        if kind == "sliceresdnet":
            torch.testing.assert_close(together[item].slices, alone.slices, rtol=0, atol=1e-6)


def test_items_are_told_their_own_sampling() -> None:
    """The same slices at another factor, or of another thickness, have another answer."""
    network, y = generator(), random(1, 1, 10, 8, 5)
    pair = y.expand(2, -1, -1, -1, -1)
    for axes in (
        [AxisAcquisition.of(20, 5, 0.7), AxisAcquisition.of(20, 5, 1.0)],
        [AxisAcquisition.of(20, 5, 0.7), AxisAcquisition.of(40, 5, 0.7)],
    ):
        with torch.no_grad():
            first, second = (one.slices for one in enhance(network, pair, axes))
        assert first is not None and second is not None
        assert float((first - second).abs().max()) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(kind: str) -> None:
    network = generator(kind).train()
    axes = [AxisAcquisition.of(15, 5, 0.8), AxisAcquisition.of(22, 5, 0.8)]
    images = [one.image for one in enhance(network, random(2, 1, 8, 8, 5), axes)]
    sum((image * random(*image.shape, seed=1)).sum() for image in images).backward()  # type: ignore[union-attr]
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # The published projection's scalar has no part in the product's way.
    assert without == ({"alpha"} if kind == "srresdnet" else set())
    if kind == "sliceresdnet":
        head, between, slices = network.tail.weight.grad.split([16, 16, 4])  # type: ignore[union-attr, operator]
        assert all(bool(part.any()) for part in (head, between, slices))


def test_r_in_the_slices_own_space_has_no_gradient() -> None:
    """Trained through the projection: what the scan says already is out of the loss's reach."""
    network, axis = Told(features=8, depth=1), AxisAcquisition.of(24, 6)
    network.between = torch.zeros(1, 1, 2, 2, 48, requires_grad=True)
    network.slices = None
    ((image, _),) = enhance(network, random(1, 1, 2, 2, 6), [axis])
    seen = apply_along(image, axis.matrix, -1)
    (gradient,) = torch.autograd.grad((seen * random(*seen.shape, seed=1)).sum(), network.between)
    (reference,) = torch.autograd.grad(
        (enhance(network, random(1, 1, 2, 2, 6), [axis])[0].image * random(1, 1, 2, 2, 24, seed=2)).sum(),
        network.between,
    )
    assert float(gradient.norm()) < 1e-3 * float(reference.norm())
    assert np.isfinite(float(gradient.norm()))
