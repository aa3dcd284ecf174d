"""`srcyc combine`: several thick stacks of one person made into one thin volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srcyc.cli.console import Console
from srcyc.cli.options import Inference, with_inference
from srcyc.cli.plan import OUTPUT_SUFFIX, prepare_folder, remove_empty
from srcyc.errors import InputError, OutputError

#: Asked of one scan only.
_NOT_HERE = ("consistency", "uncertainty", "correction_map")


@with_inference(but=_NOT_HERE)
def combine(
    stacks: Annotated[
        list[Path],
        typer.Argument(
            metavar="STACK...",
            help="Two or more thick scans of one person, contrast and session, along different axes: volumes or DICOM "
            "series. The first tells field of view, axes and intensities of the result.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The volume to write; its suffix decides the format."),
    ],
    *,
    inference: Inference,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Also write OUT.png: the first stack interpolated, and the result."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the sidecar on stdout as JSON.")] = False,
) -> None:
    """Combine thick stacks of one person into one thin volume.

    Each stack is super-resolved, laid over the first one by rigid registration, and the result is brought to agree with
    all of them. The sidecar OUT.json tells how they were moved and how well each is met. An output that exists is kept.
    """
    console = Console(json=json)
    if _is_there(output, stacks, inference, overwrite=overwrite):
        console.say(f"{output} exists already; give --overwrite to make it again.")
        return
    from srcyc.inference.combine import combine as combined
    from srcyc.inference.results import write_result
    from srcyc.volumes.volume import read_volume

    created = prepare_folder(output.parent)
    try:
        scans = [read_volume(path) for path in stacks]
        resolver = inference.load()
        with console.progress(f"{len(scans)} stacks") as progress:
            result = combined(scans, resolver, inference.options, progress=progress)
            written = write_result(result, scans[0], output, preview=preview)
    finally:
        remove_empty(created)
    for warning in written.sidecar["warnings"]:
        console.warn(warning)
    for path, stack in zip(stacks, result.report.stacks, strict=True):
        turned = ", ".join(f"{angle:.2f}" for angle in stack.rotation)
        moved = ", ".join(f"{mm:.2f}" for mm in stack.translation)
        console.say(
            f"{path}: moved by {moved} mm, turned by {turned} degrees (R, A, S); met to {100 * stack.residual:.2g} % "
            f"(the mean of the results alone: {100 * stack.residual_of_mean:.2g} %)"
        )
    spacing = " × ".join(f"{mm:.3g}" for mm in result.volume.spacing)
    console.say(f"{output}: {spacing} mm, {result.report.seconds:.1f} s")
    if json:
        console.answer(written.sidecar)


def _is_there(output: Path, stacks: list[Path], inference: Inference, *, overwrite: bool) -> bool:
    """Tell whether the output is there already, made of these stacks by this model with these options.

    Raises:
        OutputError: no name of a volume, one of the stacks, or something else that exists.
        InputError: too few stacks, or a stack that does not exist.
    """
    from srcyc.inference.finished import Asked, is_finished
    from srcyc.inference.results import Place
    from srcyc.volumes.image_files import require_writable, volume_suffix, written_suffixes

    if output.is_dir() or volume_suffix(output) is None:
        raise OutputError(
            f"{output}: one volume is written; let the name end in {written_suffixes()}, for example "
            f"{output / 'combined'}{OUTPUT_SUFFIX}."
        )
    require_writable(output)
    if len(stacks) < 2:
        raise InputError(f"{stacks[0]}: one stack; give two or more, or super-resolve it by srcyc infer.")
    for stack in stacks:
        if output.exists() and stack.exists() and output.samefile(stack):
            raise OutputError(f"{output}: is one of the stacks; give another name as --output.")
    place = Place(output)
    place.tidy()
    if overwrite or not output.exists():
        return False
    return is_finished(place, stacks, Asked(inference.digest(), inference.options))
