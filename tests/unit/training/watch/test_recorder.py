from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from srcyc.errors import OutputError
from srcyc.networks import Degradation
from srcyc.training.validation import Picture, Score
from srcyc.training.watch.progress import Progress
from srcyc.training.watch.recorder import HISTORY_NAME, Recorder, montage, read_history
from srcyc.volumes.geometry import Grid

SCORE = Score(psnr=31.0, cubic_psnr=30.0)


def note(
    recorder: Recorder,
    step: int,
    seconds: float,
    terms: dict[str, float],
    rate: float,
    score: Score | None = None,
    degradation: Degradation | None = None,
) -> None:
    recorder.report(Progress(step, 100, seconds, terms, rate, score, degradation))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_NAME).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()  # type: ignore[no-untyped-call]


def picture(name: str = "a scan at 5 mm", shape: tuple[int, int, int] = (20, 24, 16)) -> Picture:
    # Brighter towards the patient's right, anterior and superior, by the axes of RAS.
    i, j, k = np.indices(shape) / np.array(shape)[:, None, None, None]
    truth = (0.2 * i + 0.3 * j + 0.5 * k).astype(np.float32)
    return Picture(
        name, 0.5 * truth, 0.6 * truth, 0.8 * truth, truth, Grid(shape, np.diag([1.0, 1.0, 1.5, 1.0]))
    )


def test_the_history_has_a_cell_for_what_was_measured(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    note(recorder, 0, 0.0, {}, 0.0, SCORE)
    note(recorder, 50, 1.26, {"content": 0.25}, 1e-3, None)
    note(recorder, 100, 2.5, {"content": 0.125, "d_hr": 0.7}, 5e-4, SCORE)
    recorder.close()
    rows = table(tmp_path)
    assert list(rows[0]) == ["step", "seconds", "learning_rate", "psnr", "cubic_psnr", "content", "d_hr"]
    assert rows[1] == {
        **{"step": "50", "seconds": "1.3", "learning_rate": "0.001"},
        **{"psnr": "", "cubic_psnr": "", "content": "0.25", "d_hr": ""},
    }
    assert read_history(tmp_path)[1] == {
        "step": 50,
        "seconds": 1.3,
        "learning_rate": 0.001,
        "content": 0.25,
    }
    assert read_history(tmp_path)[2]["psnr"] == 31


def test_the_history_is_never_seen_half_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in range(1, 40):
        before = (tmp_path / HISTORY_NAME).open("rb") if step > 1 else None
        note(recorder, step, 1.0, {"content": 1 / step}, 1e-3)
        if before is not None:
            # A reader that had it open keeps the complete earlier file: it was replaced, not written over.
            with before:
                assert len(before.read().splitlines()) == step
    recorder.close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [HISTORY_NAME]


def test_a_resumed_run_records_what_a_straight_one_does(tmp_path: Path) -> None:
    def record(recorder: Recorder, steps: range) -> None:
        for step in steps:
            note(recorder, step, step, {"content": 1 / (1 + step)}, 1e-3, SCORE if step % 4 == 0 else None)

    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = Recorder(tmp_path / "straight")
    record(straight, range(0, 10, 2))
    killed = Recorder(tmp_path / "killed")
    record(killed, range(0, 8, 2))
    note(killed, 7, 7, {"content": 9.0, "a term of the past": 3.0}, 1.0)
    resumed = Recorder(tmp_path / "killed", resume_step=4)
    record(resumed, range(6, 10, 2))
    for recorder in (straight, killed, resumed):
        recorder.close()
    first, second = ((tmp_path / name / HISTORY_NAME).read_bytes() for name in ("straight", "killed"))
    assert first == second
    curves = [
        [(event.step, event.value) for event in events(tmp_path / name).Scalars("loss/content")]
        for name in ("straight", "killed")
    ]
    assert curves[0] == curves[1]


def test_a_run_from_the_start_forgets_an_earlier_one(tmp_path: Path) -> None:
    for step in (3, 1):
        with closing(Recorder(tmp_path)) as recorder:
            note(recorder, step, 1.0, {"content": 0.5}, 1e-3)
    assert [row["step"] for row in table(tmp_path)] == ["1"]
    assert [event.step for event in events(tmp_path).Scalars("loss/content")] == [1]


def test_a_second_report_of_a_step_adds_to_the_first(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    note(recorder, 5, 1.0, {"content": 0.5}, 1e-3)
    note(recorder, 5, 2.0, {}, 1e-3, SCORE)
    recorder.close()
    assert len(table(tmp_path)) == 1
    assert table(tmp_path)[0]["content"] == "0.5"
    assert table(tmp_path)[0]["psnr"] == "31.0"


def test_tensorboard_shows_scalars_and_pictures(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    note(recorder, 100, 2.0, {"content": 0.25, "d_hr": 0.7}, 1e-3, SCORE)
    recorder.pictures(100, [picture(), picture("other")])
    # Read while it is still open: what is reported is there at once.
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *("loss/content", "loss/d_hr", "validation/psnr", "validation/cubic_psnr", "learning_rate")
    }
    assert found.Scalars("validation/psnr")[0].step == 100
    assert len(found.Tags()["images"]) == 2
    height, width = montage(picture()).shape
    shown = found.Images(found.Tags()["images"][0])[0]
    assert (shown.height, shown.width) == (height, width)
    recorder.close()


def test_a_montage_has_upright_planes_in_true_proportions() -> None:
    shown = montage(picture())
    # 20 x 24 x 16 voxels of 1 x 1 x 1.5 mm: coronal 24 high, sagittal 24 high, axial 24 high; three columns.
    assert shown.shape == (24 + 24 + 24, 3 * 24)
    coronal = shown[:24, :20]
    assert coronal[1, 10] > coronal[-2, 10], "superior is up"
    assert coronal[12, 1] > coronal[12, -2], (
        "the patient's right (increasing first axis is R in RAS) is on the left"
    )
    interpolated, sr, truth = (shown[12, column] for column in (10, 30, 50))
    assert interpolated < sr < truth


def test_the_history_is_written_without_tensorboard(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path; from srcyc.training.watch.progress import Progress\n"
        "from srcyc.training.watch.recorder import Recorder\n"
        "recorder = Recorder(Path(sys.argv[1]))\n"
        "recorder.report(Progress(1, 9, 1.0, {'content': 0.5})); recorder.pictures(1, []); recorder.close()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == [HISTORY_NAME]


@pytest.mark.parametrize("most", [40, 600])
def test_a_full_disk_is_one_sentence_and_keeps_the_history(
    tmp_path: Path,
    most: int,
    capfd: pytest.CaptureFixture[str],
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    recorder = Recorder(tmp_path)
    note(recorder, 1, 1.0, {"content": 0.5}, 1e-3)
    before = (tmp_path / HISTORY_NAME).read_bytes()
    # The history does not fit, or (the history being short) TensorBoard's events do not.
    with file_size_limit(most), pytest.raises(OutputError, match="free some space"):
        for step in range(2, 30):
            note(recorder, step, 1.0, {"content": 0.5}, 1e-3)
    with suppress(OutputError):
        recorder.close()
    rows = table(tmp_path)
    assert rows[0]["content"] == "0.5"
    assert (tmp_path / HISTORY_NAME).read_bytes().startswith(before)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [HISTORY_NAME]
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(OutputError, match="tensorboard: cannot be written"):
        Recorder(tmp_path)


@pytest.mark.parametrize("text", ["step,content\n1,a\n", "content\n0.5\n", "step\n1,2,3\n,\n", "\0\xff"])
def test_a_damaged_history_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / HISTORY_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(OutputError, match="no history"):
        Recorder(tmp_path, resume_step=5)


def test_what_g_lr_found_is_recorded(tmp_path: Path) -> None:
    found = Degradation(width=0.75, blur=1.8, noise=0.03)
    recorder = Recorder(tmp_path)
    note(recorder, 10, 1.0, {"content": 0.5}, 1e-3, degradation=found)
    recorder.close()
    assert read_history(tmp_path)[-1] == {
        **{"step": 10, "seconds": 1.0, "learning_rate": 1e-3, "content": 0.5},
        **found.as_row(),
    }
