"""How a training stands, and how that is told in words, on a terminal and in a server's log."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from srcyc.networks import Degradation
from srcyc.training.validation import Score


@dataclass(frozen=True)
class Progress:
    """What a run reports at one of its steps.

    Attributes:
        step: steps done.
        steps: steps in all.
        seconds: of training up to here, over all resumptions.
        terms: mean of each loss term since the last report, unweighted.
        learning_rate: of the generators.
        score: on held-back persons, or None where this is no validation.
        degradation: what G_LR has found out about the LR scans.
        best: whether the score is the best so far.
        remaining: seconds to the last step, as it goes now.
    """

    step: int
    steps: int
    seconds: float
    terms: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    score: Score | None = None
    degradation: Degradation | None = None
    best: bool = False
    remaining: float = math.nan


@dataclass(frozen=True)
class Listener:
    """Who is told how a run goes, in the first process.

    Attributes:
        report: called at each report.
        warn: told what is unusual, a sentence.
    """

    report: Callable[[Progress], None]
    warn: Callable[[str], None]


def progress_line(progress: Progress) -> str:
    """Say in one line how training goes."""
    parts = [f"step {progress.step}/{progress.steps}", duration(progress.seconds)]
    if progress.step and progress.step < progress.steps:
        parts.append(f"{duration(progress.remaining)} to go")
    parts.append(" ".join(f"{name} {value:.4g}" for name, value in progress.terms.items()))
    if (score := progress.score) is not None:
        measured = []
        if score.psnr is not None and score.classical_psnr is not None:
            gain = score.psnr - score.classical_psnr
            measured.append(f"{score.psnr:.2f} dB, {gain:+.2f} dB against the classical inverse")
        if score.cycle is not None:
            measured.append(f"forward cycle {score.cycle:.4f}")
        parts.append(f"| held back: {', '.join(measured)}")
    if progress.best and progress.score is not None:
        parts.append("best so far")
    return "  ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Say a time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
