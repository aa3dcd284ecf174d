"""The compare page in a real browser, served by a real server; what is judged are the pixels on the screen."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from srcyc.evaluation.benchmark import CLASSICAL, CUBIC, baselines
from srcyc.physics.acquisition import Acquisition
from srcyc.volumes.volume import Volume, read_volume, write_volume

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives the browser; comes with the test extra"
)

pytestmark = pytest.mark.slow

PATIENCE = 90.0
playwright.expect.set_options(timeout=1000 * PATIENCE)
#: Of the browser: WebGL by the processor.
FLAGS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
#: Bright pixels of both panes correlate better than this where they show one thing at one place.
SAME = 0.95
#: Side by side, both panes have this many pixels at least.
LEAST_PIXELS = 250


# -- a server and a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    blob: Callable[..., np.ndarray],
    sample_data: Path,
    tiny_model: Path,
) -> Any:
    """``srcyc serve`` with the tiny model before those that come with it, three small scans and a large one."""
    studies = studies_of("nifti", "nrrd", "marker")
    # The head is the same on both sides: a tumour on one of them tells them apart.
    (file,) = studies.glob("head.n*")
    head = read_volume(file)
    i, j, k = head.shape
    tumour = blob(head, head.grid.index_to_world(np.array([0.3 * i, 0.5 * j, 0.5 * k])), 3.0)
    write_volume(Volume(head.data + 1.2 * tumour, head.affine), file, overwrite=True)
    shutil.copy(sample_data / "brain1_image.nrrd", studies / "large.nrrd")
    # The same head as another scanner has it, on a grid of its own that ends earlier; and one that lies elsewhere.
    thin = read_volume(file)
    finer = np.array((30, 30, 30))
    image = zoom(thin.data[0], finer / thin.shape, order=1, grid_mode=True, mode="nearest")
    grid = thin.grid.resized(finer)
    write_volume(
        Volume(2 * image[None, :, :, 6:] + 100, grid.cropped((0, 0, 6), (30, 30, 24)).affine),
        studies / "thin.nii.gz",
    )
    away = thin.affine.copy()
    away[:3, 3] += 500
    write_volume(Volume(thin.data, away), studies / "away.nii.gz")
    server = serve("srcyc", studies, model=tiny_model)
    server.wait_for(
        lambda: (
            {"head", "oblique", "marker", "large", "thin", "away"}
            <= set(server.client.datastore()["objects"])
        ),
        "notice the scans",
    )
    for image in ("head", "marker"):
        assert server.infer(image, output="json", store=True, force=True).status_code == 200
    return server


@dataclass
class Page:
    """The page as somebody sees it who has a mouse, a keyboard and a screen.

    Attributes:
        page: of the browser.
        server: where it comes from.
        complaints: what the browser's console said of errors, policy and scripts.
        elsewhere: addresses other than the server's that it asked for; they were not let through.
    """

    page: Any
    server: Any
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def open(self, *, has_result: bool = True, **wanted: str) -> Page:
        """Go to a view, and wait until it is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.server.url}/compare/#{'&'.join(f'{k}={quote(v)}' for k, v in wanted.items())}")
        self.see("#original-value", re.compile(r"\d"))
        return self.compared() if has_result else self

    def compared(self) -> Page:
        self.see("#result-value", re.compile(r"\d"))
        return self

    def see(self, selector: str, text: Any) -> None:
        playwright.expect(self.page.locator(selector)).to_have_text(text)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).text_content())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, label: str) -> None:
        self.page.locator(".tools").get_by_text(label, exact=True).click()

    def compare_with(self, choice: str, title: str) -> None:
        """Choose what the left pane shows, and wait until it does."""
        self.page.locator("#left").select_option(choice)
        self.see("#original-name", title)
        playwright.expect(self.page.locator("#original-veil")).to_be_hidden()

    def address(self) -> str:
        """What the page has written into its address."""
        return str(self.page.evaluate("location.hash"))

    def at(self) -> np.ndarray:
        """Where the page says that the crosshair is, RAS mm."""
        return np.array([float(mm) for mm in self.page.locator("#place").get_attribute("data-mm").split()])

    def wait(self, happened: Callable[[], Any], what: str) -> Any:
        return self.server.wait_for(happened, what, PATIENCE)

    # -- what is on the screen -----------------------------------------------------------------------------------------

    def shot(self, pane: str) -> np.ndarray:
        """Give the pixels of a pane as soon as they do not change any more, ``(rows, columns, RGB)``."""
        canvas = self.page.locator(f"#{pane}")
        last = b""

        def settled() -> bool:
            nonlocal last
            before, last = last, canvas.screenshot()
            return before == last

        self.wait(settled, "stop drawing")
        return np.asarray(Image.open(io.BytesIO(last)).convert("RGB")).astype(float)

    def shots(self) -> tuple[np.ndarray, np.ndarray]:
        return self.shot("original"), self.shot("result")

    def click(self, pane: str, row: float, column: float) -> None:
        """Click into a pane, and wait until the crosshair has moved."""
        before = self.text("#place")
        self.page.locator(f"#{pane}").click(position={"x": column, "y": row})
        self.wait(lambda: self.text("#place") != before, "move the crosshair")


@pytest.fixture
def page(chromium: Any, server: Any) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1100, "height": 620})
    context.set_default_timeout(1000 * PATIENCE)
    seen = Page(context.new_page(), server)

    def guard(route: Any) -> None:
        if urlsplit(route.request.url).netloc == urlsplit(server.url).netloc:
            route.continue_()
        else:
            seen.elsewhere.append(route.request.url)
            route.abort()

    context.route(re.compile("^(?!data:|blob:|about:)"), guard)
    seen.page.on(
        "console",
        lambda said: seen.complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    yield seen
    context.close()
    assert seen.elsewhere == []
    assert [text for text in seen.complaints if "GL Driver Message" not in text] == []


# -- what pixels say ---------------------------------------------------------------------------------------------------


def grey(pixels: np.ndarray) -> np.ndarray:
    """The picture without the crosshair, and without the letters at its edges, which are nobody's voxels."""
    picture = pixels.mean(axis=-1)
    coloured = np.ptp(pixels, axis=-1) > 12
    picture[coloured] = np.nan
    edge = 22
    return picture[edge:-edge, edge:-edge]


def agreement(original: np.ndarray, result: np.ndarray) -> float:
    """How well two panes correlate, fine detail (that only one of them has) left out."""
    a, b = grey(original), grey(result)
    assert a.shape == b.shape and min(a.shape) > LEAST_PIXELS, (a.shape, b.shape)
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = (gaussian_filter(np.where(known, picture, 0.0), 6) for picture in (a, b))
    return float(np.corrcoef(a[known], b[known])[0, 1])


def crosshair(pixels: np.ndarray) -> tuple[float, float]:
    """Row and column of the crosshair's lines."""
    cyan = (pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 1] - pixels[..., 0] > 40)
    rows, columns = cyan.sum(axis=1), cyan.sum(axis=0)
    assert rows.max() > 100 and columns.max() > 100, "no crosshair"
    return tuple(float(np.mean(np.flatnonzero(line > 0.7 * line.max()))) for line in (rows, columns))


def steps(pixels: np.ndarray) -> int:
    """How many rows differ from the one above: a thick slice is one step, however many pixels high it is."""
    picture = grey(pixels)
    change = np.nanmean(np.abs(np.diff(picture, axis=0)), axis=1)
    return int((change > 0.2).sum())


def centroid(pixels: np.ndarray) -> tuple[float, float]:
    """Row and column of the middle of what is bright."""
    picture = np.nan_to_num(grey(pixels))
    bright = np.clip(picture - 0.3 * picture.max(), 0, None)
    rows, columns = (np.arange(n) for n in bright.shape)
    edge = (pixels.shape[0] - picture.shape[0]) / 2
    total = bright.sum()
    return (bright.sum(axis=1) @ rows / total + edge, bright.sum(axis=0) @ columns / total + edge)


# -- tests -------------------------------------------------------------------------------------------------------------


def test_it_shows_a_scan_and_its_result_at_one_place(page: Page) -> None:
    page.open(scan="head", plane="coronal")
    listed = page.page.locator("#scans label").all_text_contents()
    # Thick ones; a result is listed with its scan and not as one.
    assert [re.match(r"[a-z]+", text)[0] for text in listed] == [
        "awaythick",
        "headthick",
        "largethick",
        "markerthick",
        "obliquethick",
        "thinneither" if "neither" in listed[-1] else "thinthin",
    ]
    assert "1 × 1 × 4 mm" in listed[1]
    assert page.text("#results").startswith("head_sr")
    assert "tiny" in page.text("#report") and "Slices corrected" in page.text("#report")
    assert "3.2 mm, assumed: 0.8 of their distance" in page.text("#report")
    assert "Not for diagnostic use" in page.text("#report-note")
    original, result = page.shots()
    assert agreement(original, result) > SAME
    # Eight slices of 4 mm, against thirty-two of 1 mm.
    assert steps(original) <= 8
    assert steps(result) > 2.5 * steps(original)


def test_the_crosshair_is_at_one_place_in_both(page: Page) -> None:
    page.open(scan="head", plane="sagittal")
    for pane, row, column in (("original", 200, 150), ("result", 260, 210)):
        page.click(pane, row, column)
        for picture in page.shots():
            assert crosshair(picture) == pytest.approx((row, column), abs=2)
    scan, made = (read_volume(next(page.server.studies.glob(f"{name}.n*"))) for name in ("head", "head_sr"))
    shown = {}
    for name, volume in (("original", scan), ("result", made)):
        index = np.rint(volume.grid.world_to_index(page.at())).astype(int)
        shown[name] = float(page.text(f"#{name}-value"))
        assert shown[name] == pytest.approx(float(volume.data[0][tuple(index)]), rel=0.006, abs=0.6)
    assert shown["original"] != shown["result"]


def test_places_in_an_oblique_scan_are_those_of_its_header(page: Page, scans: Any) -> None:
    page.open(scan="marker", plane="axial", result="marker_sr")
    volume = read_volume(scans.marker)
    true = volume.grid.world_to_index(scans.centre)
    for plane in ("Coronal", "Axial", "Sagittal"):
        page.choose(plane)
        for pane in ("original", "result"):
            page.click(
                pane, *(place + nudge for place, nudge in zip(centroid(page.shot(pane)), (3, 3), strict=True))
            )
            page.click(pane, *centroid(page.shot(pane)))
    # Half a voxel along each of the scan's axes.
    assert volume.grid.world_to_index(page.at()) == pytest.approx(true, abs=0.5)
    value = float(page.text("#original-value"))
    assert value > 0.9 * volume.data.max()


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_a_mirrored_or_shifted_result_is_seen(page: Page, plane: str) -> None:
    file = next(page.server.studies.glob("head_sr.n*"))
    kept = file.read_bytes()
    right = read_volume(file)
    offset = np.eye(4)
    offset[0, 3] = 5.0
    wrong = {
        "mirrored": Volume(right.data[:, ::-1], right.affine),
        "shifted": Volume(right.data, offset @ right.affine),
    }
    try:
        found = {}
        for name, volume in wrong.items():
            write_volume(volume, file, overwrite=True)
            page.open(scan="head", result="head_sr", plane=plane)
            found[name] = agreement(*page.shots())
            assert ("5.0 mm apart" in page.text("#warnings")) == (name == "shifted")
    finally:
        file.write_bytes(kept)
    page.open(scan="head", result="head_sr", plane=plane)
    found["right"] = agreement(*page.shots())
    assert found["right"] > SAME > max(found["mirrored"], found["shifted"]), found


def test_baselines_and_what_the_result_adds_to_them(page: Page) -> None:
    # In the middle of voxels of both.
    scan, result = (read_volume(next(page.server.studies.glob(f"{name}.n*"))) for name in ("head", "head_sr"))
    page.open(scan="head", at=",".join(map(str, result.grid.index_to_world(np.array((9, 11, 14))))))
    # The plane in which thick slices are seen from the side.
    playwright.expect(page.page.get_by_label("Sagittal", exact=True)).to_be_checked()
    page.choose("Coronal")
    nearest = page.shots()
    assert "as measured: nearest voxel" in page.text("#original-caption")
    page.compare_with("linear", "Original")
    page.see("#original-caption", re.compile("linear interpolation, as most viewers show it"))
    linear = page.shots()
    assert "as computed: nearest voxel" in page.text("#result-caption")
    assert steps(linear[0]) > 3 * steps(nearest[0])
    np.testing.assert_array_equal(linear[1], nearest[1])

    thickness = page.server.client.datastore()["objects"]["head_sr"]["image"]["info"]["report"]["thickness"]
    known = baselines(result.grid, Acquisition(result.shape, scan.shape, thickness["ratio"], slice_axis=2))
    for choice, title, name in (
        ("cubic", "Cubic B-spline", CUBIC),
        ("classical", "Classical inverse", CLASSICAL),
    ):
        page.compare_with(choice, title)
        expected = known[name](scan, result.spacing).volume.data[0]
        index = tuple(np.rint(result.grid.world_to_index(page.at())).astype(int))
        value = pytest.approx(float(expected[index]), rel=0.006, abs=0.6)
        page.wait(lambda value=value: float(page.text("#original-value")) == value, f"tell {choice}")

    difference = result.data[0] - expected
    page.choose("Difference")
    page.see("#result-caption", re.compile("super-resolved minus classical inverse"))
    page.see("#difference-value", re.compile(r"\d"))
    page.wait(lambda: "mode=difference" in page.address(), "write the address")
    # Where it is most, in both directions: its value, and the colours of the bar's two ends.
    for place in (difference.argmax(), difference.argmin()):
        index = np.unravel_index(place, difference.shape)
        at = result.grid.index_to_world(np.array(index))
        page.page.evaluate(
            "at => { location.hash = location.hash.replace(/at=[^&]*|$/, `&at=${at}`) }",
            ",".join(map(str, at)),
        )
        page.wait(lambda at=at: np.allclose(page.at(), at, atol=0.1), "go there")
        told = float(page.text("#difference-value").replace("−", "-"))
        assert told == pytest.approx(float(difference[index]), rel=0.02, abs=0.6)
        pixels = page.shot("difference")
        row, column = (round(line) for line in crosshair(pixels))
        red, _, blue = pixels[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1))
        assert (red - blue > 60) if told > 0 else (blue - red > 60)
    low, high = page.text("#difference-colours .low"), page.text("#difference-colours .high")
    assert low[0] == "−" and high[0] == "+" and low[1:] == high[1:] and float(high) > 0
    assert "a.u." in page.text("#difference-colours .what")


def test_a_result_against_a_thin_image_on_another_grid(page: Page) -> None:
    page.open(scan="head", plane="coronal", left="image:thin", mode="difference")
    page.see("#original-name", "thin")
    page.see("#difference-value", re.compile(r"\d"))
    # Of another scanner: its intensities, 2 x + 100 of the scan's, are matched; what lies outside is not compared.
    told = page.text("#warnings")
    assert "nothing is registered" in told and "matched" in told and "covers" in told
    shown, result = float(page.text("#original-value")), float(page.text("#result-value"))
    limit = float(page.text("#difference-colours .high"))
    assert shown > 1.5 * result > 0
    assert abs(float(page.text("#difference-value").replace("−", "-"))) <= 1.1 * limit < 0.5 * result
    page.press("Shift+PageDown", "Shift+PageDown", "Shift+PageDown", "Shift+PageDown")
    page.choose("Axial")
    page.page.locator("#slice").fill("1")
    page.see("#original-veil", re.compile("outside thin"))
    page.page.locator("#slice").fill("16")
    playwright.expect(page.page.locator("#original-veil")).to_be_hidden()
    # What lies elsewhere is refused, and what was shown stays.
    page.page.locator("#left").select_option("image:away")
    page.see("#alert", re.compile("away.*lies elsewhere"))
    assert page.text("#original-name") == "thin"
    playwright.expect(page.page.locator("#left")).to_have_value("image:thin")
    playwright.expect(page.page.locator("#difference-colours")).to_be_visible()


def test_blending_fades_from_one_to_the_other(page: Page) -> None:
    page.open(scan="head", plane="coronal", mode="blend", blend="0")
    stage = page.page.locator("#result")
    slider = page.page.locator("#blend")

    def seen(share: float) -> np.ndarray:
        slider.fill(str(share))
        playwright.expect(stage).to_have_css("opacity", f"{share:g}")
        return page.shot("result")

    shown = {share: seen(share) for share in (0.0, 0.5, 1.0)}
    assert steps(shown[0.0]) <= 8 < steps(shown[1.0])
    assert agreement(shown[0.0], shown[1.0]) > SAME
    # In between, both: the screen adds them up, voxel by voxel of each.
    np.testing.assert_allclose(shown[0.5], (shown[0.0] + shown[1.0]) / 2, atol=2)
    assert np.abs(shown[1.0] - shown[0.0]).mean() > 2
    # One picture has one caption, one scale and one letter at each side, which do not fade with it.
    slider.fill("0.25")
    (caption,) = (text for text in page.page.locator(".caption:visible").all_text_contents())
    assert "75 % Original" in caption and "25 % Super-resolved (tiny)" in caption
    assert page.page.locator(".scale:visible").count() == 1
    for what in (".scale:visible", "#result-pane"):
        playwright.expect(page.page.locator(what)).to_have_css("opacity", "1")
    assert page.page.locator(".letters span:visible").count() == 4


def test_the_keyboard_is_enough(page: Page) -> None:
    page.open(scan="head", plane="axial")
    start = page.at()
    # The patient's right is on the left; the result has 1 mm voxels, the scan 4 mm slices.
    for key, move in (
        *(
            ("ArrowLeft", (1, 0, 0)),
            ("ArrowUp", (0, 1, 0)),
            ("PageUp", (0, 0, 1)),
            ("ArrowRight", (-1, 0, 0)),
        ),
        *(("ArrowDown", (0, -1, 0)), ("Shift+PageDown", (0, 0, -4))),
    ):
        page.press(key)
        page.wait(lambda goal=start + move: np.allclose(page.at(), goal, atol=0.01), f"follow {key}")
        start = start + move
    names = {"1": "Sagittal", "2": "Coronal", "3": "Axial", "4": "All three"}
    for key in "2143":
        page.press(key)
        playwright.expect(page.page.get_by_label(names[key], exact=True)).to_be_checked()
    page.press("i")
    page.see("#original-caption", re.compile("linear"))
    stage = page.page.locator("#result")
    for key, opacity in (("b", "0.5"), ("]", "0.6"), ("[", "0.5"), ("[", "0.4"), ("b", "1")):
        page.press(key)
        playwright.expect(stage).to_have_css("opacity", opacity)
    page.press("d")
    page.see("#difference-value", re.compile(r"\d"))
    page.press("d")
    page.press("?")
    playwright.expect(page.page.get_by_role("dialog")).to_contain_text("Page up")
    page.press("ArrowLeft", "Escape")
    playwright.expect(page.page.get_by_role("dialog")).to_be_hidden()
    np.testing.assert_allclose(page.at(), start, atol=0.01)
    # Whatever has been clicked: the arrows move the crosshair, and not the ticks.
    for clicked in (
        ".tools >> text=Side by side",
        ".tools >> text=Axial",
        "#results label",
        "#slice",
        "summary",
        "header",
    ):
        page.page.locator(clicked).first.click()
        page.compared()
        before = page.at()
        page.press("ArrowLeft", "PageUp")
        goal = before + np.array((1, 0, 1))
        page.wait(lambda goal=goal: np.allclose(page.at(), goal, atol=0.01), f"move after {clicked}")
        playwright.expect(page.page.get_by_label("Axial", exact=True)).to_be_checked()
    # Who came by the keyboard has the arrows of what he came to; in a field, keys are what is typed.
    page.page.get_by_label("Axial", exact=True).focus()
    page.press("ArrowLeft")
    playwright.expect(page.page.get_by_label("Coronal", exact=True)).to_be_checked()
    page.page.locator("#width").fill("5")
    page.press("1", "2")
    playwright.expect(page.page.get_by_label("Coronal", exact=True)).to_be_checked()


def test_letters_scale_and_slider_say_where_one_is(page: Page) -> None:
    page.open(scan="head", plane="axial")
    box = page.page.locator("#original").bounding_box()
    middle, side = (box["width"] / 2, box["height"] / 2), 60
    names = ("left", "right", "top", "bottom")

    def letters_shown() -> str:
        return "".join(page.page.locator(f"#original-letters .{name}").text_content() for name in names)

    for plane, letters in (("Axial", "RLAP"), ("Coronal", "RLSI"), ("Sagittal", "APSI")):
        page.choose(plane)
        page.wait(lambda letters=letters: letters_shown() == letters, f"say {letters}")
        for first, second, (across, down) in ((0, 1, (side, 0)), (2, 3, (0, side))):
            ends = []
            for sign in (-1, 1):
                page.click("original", middle[1] + sign * down, middle[0] + sign * across)
                ends.append(page.at())
            # The letter says towards which end of which axis of the world one goes.
            for letter, step in ((letters[first], ends[0] - ends[1]), (letters[second], ends[1] - ends[0])):
                axis, up = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[
                    letter
                ]
                assert step[axis] * up == pytest.approx(np.abs(step).max())
        # As far as these two points are apart, by the scale bar.
        bar = page.page.locator("#original-scale span")
        millimetres = int(bar.last.text_content().split()[0])
        assert np.abs(step).max() == pytest.approx(
            2 * side * millimetres / bar.first.bounding_box()["width"], rel=0.03, abs=0.5
        )
    page.page.locator("#slice").fill("3")
    page.see("#result-caption", re.compile("^slice 3 of 24 "))
    assert page.text("#slice-of").startswith("3 of 24")


def test_on_a_phone_with_fingers(chromium: Any, server: Any) -> None:
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    context.set_default_timeout(1000 * PATIENCE)
    page = Page(context.new_page(), server)
    page.open(scan="head", plane="axial")
    # Both pictures and the slider are on the first screen, and nothing is wider than it.
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 360
    for what in ("#original", "#result", "#slice"):
        box = page.page.locator(what).bounding_box()
        assert box["y"] + box["height"] <= 740 and box["x"] + box["width"] <= 360, what
    assert page.page.locator("#original").bounding_box()["width"] > 300
    box = page.page.locator("#result").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    start = page.at()
    page.page.touchscreen.tap(x + 20, y)
    page.wait(lambda: page.at()[0] < start[0] - 1, "follow the tap")
    touch = context.new_cdp_session(page.page)

    def drag(*paths: tuple[tuple[float, float], tuple[float, float]]) -> None:
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            points = [
                {"x": a[0] + share * (b[0] - a[0]), "y": a[1] + share * (b[1] - a[1]), "id": number}
                for number, (a, b) in enumerate(paths)
            ]
            kind = "touchMove" if share else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    before = page.at()
    drag(((x, y + 30), (x, y - 30)))
    page.wait(lambda: page.at()[2] > before[2] + 4, "turn slices")
    np.testing.assert_allclose(page.at()[:2], before[:2], atol=0.01)

    def pixels_per_mm() -> float:
        bar = page.page.locator("#result-scale span")
        return bar.first.bounding_box()["width"] / int(bar.last.text_content().split()[0])

    unmagnified, place = pixels_per_mm(), page.at()
    drag(((x - 20, y), (x - 60, y)), ((x + 20, y), (x + 60, y)))
    page.wait(lambda: pixels_per_mm() > 2 * unmagnified, "magnify")
    np.testing.assert_array_equal(page.at(), place)
    # What is wrong is seen, however far below the form is; help begins with its beginning.
    page.page.locator("#run-box summary").first.click()
    page.page.get_by_label("Target spacing").fill("nonsense")
    page.page.get_by_role("button", name="Run").click()
    page.see("#alert", re.compile("nonsense"))
    playwright.expect(page.page.locator("#alert")).to_be_in_viewport(ratio=1)
    page.page.locator("#help-open").click()
    playwright.expect(page.page.locator("#help-title")).to_be_in_viewport()
    context.close()


def test_panes_move_and_magnify_together(page: Page) -> None:
    page.open(scan="head", plane="coronal")
    before = page.shots()
    place = page.at()
    for key in "+++":
        page.press(key)
    page.page.locator("#result").hover(position={"x": 200, "y": 200})
    page.page.keyboard.down("Shift")
    page.page.mouse.down()
    box = page.page.locator("#result").bounding_box()
    page.page.mouse.move(box["x"] + 230, box["y"] + 220, steps=4)
    page.page.mouse.up()
    page.page.keyboard.up("Shift")
    after = page.shots()
    lines = [crosshair(picture) for picture in after]
    assert lines[0] == pytest.approx(lines[1], abs=1.5)
    assert lines[0] == pytest.approx(np.add(crosshair(before[0]), (20, 30)), abs=3)
    assert agreement(*after) > SAME
    np.testing.assert_array_equal(page.at(), place)
    page.page.get_by_role("button", name="Reset view").click()
    page.wait(lambda: np.allclose(page.shot("result"), before[1], atol=1), "show all again")
    # One window for both.
    page.page.locator("#level").fill("5000")
    page.page.locator("#level").press("Enter")
    for picture in page.shots():
        assert np.nanmax(grey(picture)) < 60


def test_a_run_is_watched_shown_and_kept_on_request(page: Page) -> None:
    page.open(scan="oblique", plane="sagittal", has_result=False)
    page.see("#result-veil", re.compile("press Run"))
    page.page.get_by_label("Target spacing").fill("nonsense")
    page.page.get_by_role("button", name="Run").click()
    # In the form's words.
    page.see("#alert", re.compile("^“Target spacing” 'nonsense'"))
    page.complaints.clear()  # the browser notes each refusal
    page.page.get_by_label("Target spacing").fill("isotropic")
    page.page.get_by_label("Slice thickness (mm)").fill("0")
    page.page.get_by_role("button", name="Run").click()
    page.see("#alert", re.compile(r"^“Slice thickness \(mm\)” '0'"))
    page.complaints.clear()
    page.page.get_by_label("Slice thickness (mm)").fill("2.5")
    page.page.get_by_label("Correct the slices").uncheck()
    page.page.get_by_label("Uncertainty map").check()
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", re.compile("not kept"))
    page.compared()
    assert agreement(*page.shots()) > SAME
    told = page.text("#report")
    assert "2.5 mm, as stated" in told and "Slices correctedno" in told
    assert "oblique_sr" not in page.server.client.datastore()["objects"]
    # The map lies over the result, and not over the scan.
    plain = page.shots()
    page.page.locator("#cover-on").check()
    page.wait(lambda: np.abs(page.shot("result") - plain[1]).mean() > 1, "show the uncertainty")
    np.testing.assert_array_equal(page.shot("original"), plain[0])

    assert "standard deviation" in page.text("#cover-colours .what") and "≥" in page.text(
        "#cover-colours .high"
    )

    page.page.get_by_label("Keep the result in the studies folder").check()
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", "Kept as oblique_sr.")
    assert page.server.client.datastore()["objects"]["oblique_sr"]["image"]["info"]["made_from"] == "oblique"
    # Both results are offered, and one against the other.
    assert [
        re.match(r"[a-z_ ]+", text)[0] for text in page.page.locator("#results label").all_text_contents()
    ] == [
        "just madenot kepttiny",
        "oblique_srkepttiny",
    ]
    page.compare_with("result:*1", "just made (tiny)")
    page.press("d")
    page.see("#difference-value", re.compile(r"\d"))
    page.press("d")
    # Its address shows it again, with the map that is kept with it; also in another browser.
    page.page.wait_for_url(re.compile("result=oblique_sr"))
    assert page.server.client.datastore()["objects"]["oblique_sr"]["labels"].keys() == {"uncertainty"}
    page.page.goto("about:blank")
    page.page.goto(f"{page.server.url}/compare/#scan=oblique&result=oblique_sr&plane=sagittal")
    page.compared()
    assert "plane=sagittal" in page.page.url
    assert "uncertainty map" in page.text("#results")
    page.choose("show")
    page.wait(lambda: page.page.locator("#cover-colours").is_visible(), "show the map again")
    page.page.locator("#cover-on").uncheck()
    assert agreement(*page.shots()) > SAME
    assert page.server.temporary_files() == set()
    # Asked how far it is, the server may not have heard of the request yet.
    page.complaints[:] = [text for text in page.complaints if "404" not in text]


def test_a_result_that_went_to_a_pacs_is_shown(page: Page) -> None:
    """A PACS lists it as one of its series: what it was made from, it does not say."""

    def as_a_pacs_lists(route: Any) -> None:
        reply = route.fetch()
        listing = reply.json()
        for known in listing["objects"].values():
            known["image"]["info"].pop("made_from", None)
        route.fulfill(response=reply, json=listing)

    page.page.route(re.compile("/datastore/[?]output=all"), as_a_pacs_lists)
    page.open(scan="marker", has_result=False)
    page.see("#result-veil", re.compile("press Run"))
    page.page.get_by_label("Keep the result in the studies folder").check()
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", "Kept as marker_sr.")
    page.compared()
    assert "in the PACS" in page.text("#results")
    page.complaints[:] = [text for text in page.complaints if "404" not in text]


def test_a_scan_is_sent_and_its_result_and_picture_are_saved(page: Page, scans: Any, tmp_path: Path) -> None:
    page.open(scan="head")
    # What the server keeps comes as the file that it keeps.
    with page.page.expect_download() as coming:
        page.page.get_by_role("button", name="Download").click()
    kept = next(page.server.studies.glob("head_sr.n*"))
    assert coming.value.suggested_filename == kept.name
    assert Path(coming.value.path()).read_bytes() == kept.read_bytes()

    page.page.locator("#upload").set_input_files(scans.archive)
    page.see("#result-veil", re.compile("press Run"))
    page.see("#original-grid", re.compile("0.9 × 0.9 × 3.6 mm"))
    assert "series.zip" in page.text("#scans")
    page.wait(lambda: "scan=" not in page.address(), "keep it out of the address")
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", re.compile("not kept"))
    page.compare_with("classical", "Classical inverse")
    with page.page.expect_download() as coming:
        page.page.get_by_role("button", name="Download").click()
    file = tmp_path / coming.value.suggested_filename
    coming.value.save_as(file)
    result, sent = read_volume(file), read_volume(scans.series)
    np.testing.assert_allclose(result.grid.field_of_view, sent.grid.field_of_view, atol=1e-3)
    np.testing.assert_allclose(result.spacing, 0.9, atol=0.02)

    shots = page.shots()
    with page.page.expect_download() as coming:
        page.page.get_by_role("button", name="Save picture").click()
    coming.value.save_as(tmp_path / "picture.png")
    assert re.fullmatch(r"series\.zip_(sagittal|coronal)\.png", coming.value.suggested_filename)
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(float)
    height, width = shots[0].shape[:2]
    assert picture.shape[1] == 2 * width + 4 and picture.shape[0] > height + 60
    # What was on the screen, between captions above and below.
    top = 44
    for n, shot in enumerate(shots):
        saved = picture[top : top + height, n * (width + 4) : n * (width + 4) + width]
        # A pane's edges need not lie between pixels.
        assert np.nanmean(np.abs(grey(saved) - grey(shot))) < 2
        assert np.nanmax(grey(saved)) > 100
    assert (picture[: top - 2] > 150).any(axis=(1, 2)).sum() > 15
    assert (picture[top + height + 2 :] > 150).any(axis=(1, 2)).sum() > 15
    # What is no scan is said to be none.
    page.page.locator("#upload").set_input_files(
        {"name": "<b>no.nii", "mimeType": "application/octet-stream", "buffer": b"none"}
    )
    page.see("#alert", re.compile("not a NIfTI image"))
    assert page.page.locator("#scans b").count() == 0
    page.complaints[:] = [text for text in page.complaints if not re.search("404|422", text)]


def test_cancel_ends_the_work(page: Page) -> None:
    asked: list[str] = []
    page.page.on(
        "request", lambda request: asked.append(request.url) if "/progress/" in request.url else None
    )
    page.open(scan="large", plane="axial", has_result=False)
    page.page.get_by_label("Uncertainty map").check()
    page.page.get_by_role("button", name="Run").click()
    page.see("#progress-text", re.compile(r"Computing, \d+ %"))
    # Where the result will be.
    here, there = (page.page.locator(place).bounding_box() for place in ("#progress-box", "#result-pane"))
    assert here["x"] > there["x"] and here["x"] + here["width"] < there["x"] + there["width"]
    page.page.get_by_role("button", name="Cancel").click()
    page.see("#status", "Cancelled.")
    playwright.expect(page.page.get_by_role("button", name="Run")).to_be_enabled()
    progress = urlsplit(asked[-1]).path
    page.wait(lambda: page.server.get(progress).json()["state"] == "cancelled", "cancel on the server")
    assert page.server.infer("head", output="json").status_code == 200
    page.complaints[:] = [text for text in page.complaints if "404" not in text]


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            "<img src=x onerror=alert(1)>",
            "../../etc/passwd",
            "/etc/passwd",
            "head%00",
            "javascript:alert(1)",
        ),
        "x" * 3000,
    ],
)
def test_hostile_names_in_an_address_become_a_sentence(page: Page, hostile: str) -> None:
    page.page.on("dialog", lambda dialog: page.complaints.append(f"dialog: {dialog.message}"))
    page.page.goto(f"{page.server.url}/compare/#scan={quote(hostile)}")
    page.see("#alert", re.compile("is not in the studies folder of this server"))
    assert page.page.locator("#alert img").count() == 0
    page.page.goto("about:blank")
    page.page.goto(f"{page.server.url}/compare/#scan=head&result={quote(hostile)}")
    page.see("#alert", re.compile("is not a result of head"))
    # The page goes on.
    page.page.locator("#results label").first.click()
    page.compared()
    playwright.expect(page.page.locator("#alert")).to_be_hidden()


def test_scans_that_cannot_be_shown_are_told_of(page: Page) -> None:
    page.open(scan="head", plane="axial")
    file = next(page.server.studies.glob("oblique.n*"))
    kept = file.read_bytes()
    file.write_bytes(kept[:-3000])
    try:
        page.page.locator("#scans").get_by_text("oblique", exact=True).click()
        page.see("#alert", re.compile(r"oblique\.nrrd"))
        assert str(page.server.studies) not in page.text("#alert")
        # Nothing of the scan before is taken for this one's, and nothing waits for it.
        page.see("#original-veil", "This cannot be shown.")
        for value in ("#place", "#original-value", "#result-value"):
            page.see(value, "–")
        playwright.expect(page.page.locator("#run-box")).to_be_hidden()
    finally:
        file.write_bytes(kept)
    page.page.route("**/compare/volume?image=head_sr", lambda route: route.abort())
    page.page.locator("#scans").get_by_text("head", exact=True).click()
    page.see("#alert", re.compile("does not answer"))
    page.see("#result-veil", "This cannot be shown.")
    page.page.unroute_all()
    page.complaints.clear()  # the browser notes each refusal
    page.page.locator("#scans").get_by_text("marker", exact=True).click()
    page.see("#original-grid", re.compile("mm"))
    page.page.locator("#scans").get_by_text("head", exact=True).click()
    page.compared()


def test_another_scan_is_chosen_while_a_result_is_shown(page: Page) -> None:
    """That ends what is loaded for the result, which is in the list: nothing was cancelled."""
    page.open(scan="marker", left="classical", plane="axial")
    page.page.evaluate(
        """() => {
          window.said = [];
          const status = document.getElementById("status");
          new MutationObserver(() => window.said.push(status.textContent)).observe(status, { childList: true });
        }"""
    )
    page.page.locator("#run-box summary").first.click()
    page.page.route("**/compare/baseline?*", lambda route: None)
    page.page.get_by_role("button", name="Run").click()
    page.see("#results", re.compile("just made"))
    page.see("#original-veil", "Computing …")
    page.page.locator("#scans").get_by_text("head", exact=True).click()
    page.compared()
    playwright.expect(page.page.locator("#progress-box")).to_be_hidden()
    assert any("Sending" in text for text in page.page.evaluate("window.said"))
    assert "Cancelled." not in page.page.evaluate("window.said")
    page.complaints[:] = [text for text in page.complaints if "404" not in text]
