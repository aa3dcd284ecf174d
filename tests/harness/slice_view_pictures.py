"""Draws a scan and its super-resolved volume in real slice views of Slicer's core, off-screen, without Slicer.

    python tests/harness/slice_view_pictures.py SCAN RESULT FOLDER

The views are arranged by the module's own code (`SRCycLib.views`); trame-slicer draws them. They are pictures of
slice views, not of a Slicer window, and must be labelled so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]

#: Grey of the lines between the views.
_LINE = 90


class LayoutManager:
    """What the module needs of Slicer's layout manager, over views that draw.

    Args:
        app: trame-slicer's application.
        size: pixels of a view: width, height.
    """

    def __init__(self, app: Any, size: tuple[int, int]) -> None:
        import slicer
        from trame_slicer.views import DirectViewFactory

        self._app = app
        self._size = size
        app.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
        self.logic = slicer.vtkMRMLLayoutLogic()
        self.logic.SetMRMLApplicationLogic(app.app_logic)
        self.logic.SetMRMLScene(app.scene)

    @property
    def layout(self) -> int:
        return int(self.logic.GetLayoutNode().GetViewArrangement())

    def setLayout(self, layout: int) -> None:
        from trame_slicer.views import ViewLayoutDefinition, ViewProps, ViewType

        self.logic.GetLayoutNode().SetViewArrangement(layout)
        for node in self.slice_nodes():
            if not self._app.view_manager.is_view_created(node.GetSingletonTag()):
                orientation = node.GetOrientation()
                definition = ViewLayoutDefinition(node.GetSingletonTag(), ViewType.SLICE_VIEW, ViewProps())
                view = self._app.view_manager.create_view(definition)
                # Otherwise each change of a node draws everything anew.
                view.set_render_blocked(True)
                # It makes a node of its own, and with it overwrites the layout's, which the module finds in the scene.
                view._logic.SetSliceNode(node)
                view.set_view_node(node)
                node.SetOrientation(orientation)
                view.render_window().SetSize(*self._size)
                view._update_slice_size()

    def slice_nodes(self) -> list[Any]:
        """Give the slice nodes of the layout, in its order."""
        nodes = self.logic.GetViewNodes()
        found = [nodes.GetItemAsObject(row) for row in range(nodes.GetNumberOfItems())]
        return [node for node in found if node.IsA("vtkMRMLSliceNode")]

    def pixels(self, node: Any) -> np.ndarray:
        """Draw a view; ``(height, width, 3)``, top row first."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        view = self._app.view_manager.get_view(node.GetSingletonTag())
        window = view.render_window()
        window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1].copy()


class Pictures:
    """A scan and its result in slice views.

    Args:
        scan: file of the thick-slice scan.
        result: file of the volume that was made from it.
        size: pixels of a view: width, height.
        smooth: whether the scan is interpolated on the screen, as Slicer does unless told otherwise.
    """

    def __init__(
        self, scan: Path, result: Path, size: tuple[int, int] = (400, 400), smooth: bool = False
    ) -> None:
        from trame_slicer.core import SlicerApp

        self._app = SlicerApp()
        self.layouts = LayoutManager(self._app, size)
        self.scan, self.result = (self._load(path) for path in (scan, result))
        from SRCycLib.views import Comparison

        self.comparison = Comparison(self._app.scene, self.layouts)
        display = self.scan.GetDisplayNode()
        display.AutoWindowLevelOff()
        for node in (self.scan, self.result):
            node.GetDisplayNode().AutoWindowLevelOff()
            node.GetDisplayNode().SetWindowLevel(display.GetWindow(), display.GetLevel())
            node.GetDisplayNode().SetInterpolate(smooth or node is self.result)

    def _load(self, path: Path) -> Any:
        node = self._app.volumes_logic.AddArchetypeVolume(str(path), path.name, 0)
        if node is None:
            raise ValueError(f"{path}: cannot be read as a volume")
        return node

    def side_by_side(self) -> list[np.ndarray]:
        """Draw three views of the scan, then the same three of the result."""
        self.comparison.side_by_side(self.scan, self.result)
        self.comparison.fit()
        return [self.layouts.pixels(node) for node in self.layouts.slice_nodes()]

    def faded(self, share: float) -> list[np.ndarray]:
        """Draw three views of the scan with the result over it."""
        self.comparison.fade(self.scan, self.result, share)
        self.comparison.fit()
        return [self.layouts.pixels(node) for node in self.layouts.slice_nodes()]


def montage(pictures: list[np.ndarray], columns: int = 3) -> np.ndarray:
    """Put pictures of one size into rows, with lines between."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), _LINE, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + 2), number % columns * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def save(picture: np.ndarray, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.image import imsave

    imsave(path, picture)


def main() -> None:
    """Write the pictures: each view alone, the six side by side, and the fade."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(400, 400), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--smooth", action="store_true", help="interpolate the scan on the screen")
    parser.add_argument("--share", type=float, default=0.5, help="of the result in the fade")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(options.scan, options.result, tuple(options.size), options.smooth)
    drawn = pictures.side_by_side()
    for row, what in enumerate(("scan", "result")):
        for column in range(3):
            save(drawn[3 * row + column], options.folder / f"{what}-{column}.png")
    save(montage(drawn), options.folder / "side-by-side.png")
    save(montage(pictures.faded(options.share)), options.folder / "fade.png")


if __name__ == "__main__":
    for _folder in (REPOSITORY / "srcyc_app" / "slicer" / "SRCyc",):
        sys.path.insert(0, str(_folder))
    main()
