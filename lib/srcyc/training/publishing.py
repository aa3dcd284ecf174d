"""What is published: the card of a run's model, and that none takes the place of a better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from srcyc._version import __version__
from srcyc.evaluation.metrics import Quality, beside_baselines
from srcyc.models.card import ModelCard, Origin, ScanScore, Training, ValidationScore, contrast_of
from srcyc.models.model_file import load_model, publish_model
from srcyc.training.folder import Plan
from srcyc.training.material import Material
from srcyc.training.validation import Case, Score, Validator
from srcyc.training.watch.progress import Progress
from srcyc.volumes.volume import volume_stem


def make_card(plan: Plan, material: Material, progress: Progress) -> ModelCard:
    """Say what a model is: what it was trained on, in which range, and how it did on held-back persons.

    Args:
        plan: of the run.
        material: of the run, whose validator has just scored the model.
        progress: of the step whose weights these are.
    """
    config, initial, score = plan.config, plan.initial, progress.score
    sizes = [min(scan.spacing) for scan in material.hr]
    factors = [scan.factor for scan in material.lr] or list(config.data.factor_range)
    if initial is not None:
        sizes += initial.card.spacing_range
        factors += initial.card.factor_range
    default = f"{len(material.hr)} HR and {len(material.lr)} LR scans"
    validator = material.validator
    return ModelCard(
        name=config.card.name,
        title=config.card.title,
        network=config.g_hr,
        spacing_range=(round(min(sizes), 3), round(max(sizes), 3)),
        factor_range=(round(min(factors), 2), round(max(factors), 2)),
        contrasts=config.card.contrasts,
        trained_on=config.card.trained_on or default,
        training=Training(
            mode=config.mode,
            step=progress.step,
            seconds=round(progress.seconds, 1),
            started_from=None if initial is None else Origin(name=initial.card.name, sha256=initial.sha256),
            validation=None if score is None else validation_score(score),
            degradation=progress.degradation,
        ),
        scores=() if score is None else held_back_scores(validator.simulated, **validator.qualities),
        licence=config.card.licence,
        created=datetime.now(timezone.utc).date().isoformat(),
        software=f"srcyc {__version__}",
    )


def validation_score(score: Score) -> ValidationScore:
    """Give a validation's means as a card has them."""
    found = score.as_row()
    for name in ("cubic", "classical"):
        if score.psnr is not None and f"{name}_psnr" in found:
            found[f"psnr_over_{name}"] = score.psnr - found[f"{name}_psnr"]
    told = found.keys() & ValidationScore.model_fields.keys()
    return ValidationScore(**{name: round(found[name], 4) for name in told})


def held_back_scores(
    cases: Sequence[Case], own: Sequence[Quality], cubic: Sequence[Quality], classical: Sequence[Quality]
) -> tuple[ScanScore, ...]:
    """Give each simulated case as a card has it, so that a retrained model shows its scores as a shipped one does.

    Args:
        cases: of :class:`srcyc.training.validation.Validator`, the simulated ones.
        own: the network's quality, one per case.
        cubic: that of cubic B-spline interpolation.
        classical: that of the classical inverse.
    """
    return tuple(
        ScanScore(
            scan=volume_stem(Path(case.scan.name)),
            contrast=contrast_of(case.scan.name),
            thickness=round(case.factor * case.scan.spacing[case.along], 2),
            axis=case.along,  # type: ignore[arg-type]
            **{name: value and round(value, 4) for name, value in beside_baselines(*qualities).items()},
        )
        for case, *qualities in zip(cases, own, cubic, classical, strict=True)
    )


@dataclass(frozen=True)
class Verdict:
    """Whether a model was published, and why.

    Attributes:
        published: it was.
        reason: one clause.
    """

    published: bool
    reason: str


def publish_if_better(
    candidate: Path,
    target: Path,
    validator: Validator,
    metric: str,
    *,
    even_if_worse: bool = False,
    incumbent: Path | None = None,
) -> Verdict:
    """Put a model in a place, unless a better one is there or in use.

    All are scored on the same held-back scans, as they are now: a number on an old card was measured on others.

    Args:
        candidate: model file.
        target: where to publish; what is there is replaced whole or not at all.
        validator: of the run.
        metric: key metric, larger is better.
        even_if_worse: replace whatever is there.
        incumbent: model in use so far, of another name; it must be outdone too.

    Raises:
        ModelError: a file is no model.
        OutputError: the place cannot be written.
    """
    new = load_model(candidate)
    rivals = {"the model there": target} if target.exists() else {}
    if incumbent is not None and incumbent.resolve() != target.resolve():
        rivals[f"{incumbent.stem} in use"] = incumbent
    if not rivals:
        reason = "nothing was published there yet"
    elif even_if_worse:
        reason = f"as told, without comparing it with {' and '.join(rivals)}"
    elif not validator or (metric == "cycle" and not validator.simulated):
        return Verdict(False, f"nobody is held back, so it cannot be compared with {' and '.join(rivals)}")
    else:
        # The forward cycle needs this run's G_LR and says nothing about a model trained with another.
        metric = "psnr" if metric == "cycle" else metric
        own = validator.score(new.network).key(metric)
        others = {
            name: validator.score(load_model(path).network).key(metric) for name, path in rivals.items()
        }
        comparison = ", ".join(f"{name} {score:+.4g}" for name, score in others.items())
        comparison = f"{metric} over the classical inverse {own:+.4g}, {comparison}"
        # A score that is no number is not better either.
        if not all(own > score for score in others.values()):
            return Verdict(False, f"it is not better on the held-back scans ({comparison})")
        reason = f"it is better on the held-back scans ({comparison})"
    publish_model(new.network, new.card, target, overwrite=True)
    return Verdict(True, reason)
