"""Makes the two domains of "Unpaired: what it is for" (docs/experiments.md): scans degraded as no simulation knows.

    python docs/recipes/unpaired_experiment.py DATA FOLDER

DATA holds ``hr_ds002748`` and ``hr_t1``. FOLDER receives ``lr``, thick scans of sub-01 to sub-16, and ``hr``, links to
thin scans of other people. Who is in neither (sub-32, the people of ``eval``) is for measuring. The files say nothing
of a slice thickness: it is estimated from each scan, as 0.57 to 0.69 of the spacing, 0.63 on average, which is the
Gaussian that blurs as much as these slices. Then::

    srcyc train --config docs/recipes/unpaired.yaml --lr FOLDER/lr --hr FOLDER/hr -o runs/unpaired
    srcyc evaluate --hr NEW_PERSON... --axis 0 --thickness 3.75 --gap 1.25 --box 0.7 --blur 1.8 --noise 0.03 \
        --told-ratio 0.63 --model srcyc-fidelity --model runs/unpaired/model.safetensors -o check
"""

from __future__ import annotations

import sys
from pathlib import Path

from srcyc.physics.simulation import Spoiling, simulate_thick
from srcyc.volumes.volume import read_volume, write_volume

#: Slice spacing in mm, and the width of the profile over it.
SPACING, RATIO = 5.0, 0.75
#: Box-like slices, blurred within the slice, noisy. The seed differs from scan to scan.
BOX, BLUR, NOISE = 0.7, 1.8, 0.03
#: Numbers of the people with thick scans, and of those with thin ones.
LR_PEOPLE, HR_PEOPLE = range(1, 17), range(17, 32)


def main(data: Path, folder: Path) -> None:
    """Write both domains."""
    for name in ("lr", "hr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for scan in sorted((data / "hr_ds002748").glob("sub-*.nii.gz")):
        number = int(scan.name[4:6])
        if number in HR_PEOPLE:
            link(scan, folder / "hr")
        if number not in LR_PEOPLE:
            continue
        spoiling = Spoiling(noise=NOISE, seed=number, blur=BLUR, box=BOX)
        # The third axis of these scans is smoother than the others.
        thick, _ = simulate_thick(
            read_volume(scan), SPACING, thickness=RATIO * SPACING, axis=number % 2, spoiling=spoiling
        )
        write_volume(thick, folder / "lr" / scan.name, overwrite=True)
    for scan in sorted((data / "hr_t1").glob("*.nii.gz")):
        link(scan, folder / "hr")


def link(scan: Path, folder: Path) -> None:
    """Put a scan into a folder without copying it."""
    place = folder / scan.name
    place.unlink(missing_ok=True)
    place.symlink_to(scan.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
