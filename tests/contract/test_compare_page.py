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
from scipy.ndimage import gaussian_filter

from srcyc.volumes.volume import Volume, read_volume, write_volume

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives the browser; comes with the test extra"
)

pytestmark = pytest.mark.slow

PATIENCE = 90.0
#: WebGL by the processor; and nothing that the browser might want from the network for itself.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check"),
)
#: Bright pixels of both panes correlate better than this where they show one thing at one place.
SAME = 0.9
#: Side by side, both panes have this many pixels at least.
LEAST_PIXELS = 250


# -- a server and a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


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
    server = serve("srcyc", studies, model=tiny_model)
    server.wait_for(
        lambda: {"head", "oblique", "marker", "large"} <= set(server.client.datastore()["objects"]),
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
        playwright.expect(self.page.locator(selector)).to_have_text(text, timeout=1000 * PATIENCE)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).text_content())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, label: str) -> None:
        self.page.locator(".tools").get_by_text(label).click()

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
        "headthick",
        "largethick",
        "markerthick",
        "obliquethick",
    ]
    assert "1 × 1 × 4 mm" in listed[0]
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


def test_interpolation_changes_the_original_only(page: Page) -> None:
    page.open(scan="head", plane="coronal")
    nearest = page.shots()
    assert "as measured: nearest voxel" in page.text("#original-caption")
    page.choose("Linear interpolation")
    linear = page.shots()
    assert "linear interpolation, as most viewers show it" in page.text("#original-caption")
    assert "as computed: nearest voxel" in page.text("#result-caption")
    assert steps(linear[0]) > 3 * steps(nearest[0])
    np.testing.assert_array_equal(linear[1], nearest[1])


def test_blending_fades_from_one_to_the_other(page: Page) -> None:
    page.open(scan="head", plane="coronal", mode="blend", blend="0")
    stage = page.page.locator("#stage .pane.second")
    slider = page.page.locator("#blend")

    def seen(share: float) -> np.ndarray:
        slider.fill(str(share))
        playwright.expect(stage).to_have_css("opacity", f"{share:g}")
        return page.shot("result")

    shown = {share: seen(share) for share in (0.0, 0.5, 1.0)}
    assert steps(shown[0.0]) <= 8 < steps(shown[1.0])
    # In between, both: the screen adds them up, voxel by voxel of each.
    np.testing.assert_allclose(shown[0.5], (shown[0.0] + shown[1.0]) / 2, atol=2)
    assert np.abs(shown[1.0] - shown[0.0]).mean() > 2


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
    names = {"1": "Axial", "2": "Coronal", "3": "Sagittal", "4": "All three"}
    for key in "2341":
        page.press(key)
        playwright.expect(page.page.get_by_label(names[key], exact=True)).to_be_checked()
    page.press("i")
    page.see("#original-caption", re.compile("linear"))
    stage = page.page.locator("#stage .pane.second")
    for key, opacity in (("b", "0.5"), ("]", "0.6"), ("[", "0.5"), ("[", "0.4"), ("b", "1")):
        page.press(key)
        playwright.expect(stage).to_have_css("opacity", opacity)
    page.press("?")
    playwright.expect(page.page.get_by_role("dialog")).to_contain_text("Page up")
    page.press("ArrowLeft", "Escape")
    playwright.expect(page.page.get_by_role("dialog")).to_be_hidden()
    np.testing.assert_allclose(page.at(), start, atol=0.01)
    # In a field, keys are what is typed.
    page.page.locator("#width").fill("5")
    page.press("1", "2")
    playwright.expect(page.page.get_by_label("Axial", exact=True)).to_be_checked()


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
    page.see("#alert", re.compile("^target_spacing 'nonsense'"))
    page.complaints.clear()  # the browser notes each refusal
    page.page.get_by_label("Target spacing").fill("isotropic")
    page.page.get_by_label("Slice thickness (mm)").fill("0")
    page.page.get_by_role("button", name="Run").click()
    page.see("#alert", re.compile("^slice_thickness '0'"))
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

    page.page.get_by_label("Keep the result in the studies folder").check()
    page.page.get_by_label("Uncertainty map").uncheck()
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", "Kept as oblique_sr.")
    assert page.server.client.datastore()["objects"]["oblique_sr"]["image"]["info"]["made_from"] == "oblique"
    # Its address shows it again.
    page.page.wait_for_url(re.compile("result=oblique_sr"))
    page.page.reload()
    page.compared()
    assert "plane=sagittal" in page.page.url
    assert agreement(*page.shots()) > SAME
    assert page.server.temporary_files() == set()
    assert page.server.session_files() == set()
    # Asked how far it is, the server may not have heard of the request yet.
    page.complaints[:] = [text for text in page.complaints if "404" not in text]


def test_cancel_ends_the_work(page: Page) -> None:
    asked: list[str] = []
    page.page.on(
        "request", lambda request: asked.append(request.url) if "/progress/" in request.url else None
    )
    page.open(scan="large", plane="axial", has_result=False)
    page.page.get_by_label("Uncertainty map").check()
    page.page.get_by_role("button", name="Run").click()
    page.see("#status", re.compile("Computing"))
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
    finally:
        file.write_bytes(kept)
    page.complaints.clear()  # the browser notes each refusal
    page.page.locator("#scans").get_by_text("head", exact=True).click()
    page.compared()
