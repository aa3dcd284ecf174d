"""How a training is told in words, on a terminal and in a server's log."""

from __future__ import annotations

from srcyc.training.loop import Progress


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
