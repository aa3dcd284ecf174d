"""Whether a run still makes sense: losses that are no numbers, and the two ways in which a cycle GAN collapses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from srcyc.config import TrainingConfig
from srcyc.errors import SRCycError
from srcyc.losses import AdversarialCriterion

#: What the loss of a discriminator is that cannot tell real from fake.
_UNDECIDED: dict[AdversarialCriterion, float] = {
    "bce": math.log(2),
    "relativistic": math.log(2),
    "lsgan": 0.25,
}
_KEPT = "the last checkpoint and the best model so far are kept"


class CollapseError(SRCycError):
    """Training broke down; going on would only make it worse."""


class StabilityMonitor:
    """Looks at the means of each report and stops a run that has broken down.

    Args:
        config: of the run.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.settings = config.stability
        self.won = self.settings.saturation * _UNDECIDED[config.adversarial]
        self._suspect: dict[str, int] = {}
        self._best: dict[str, float] = {}

    def check(self, step: int, means: Mapping[str, float]) -> None:
        """Judge the means of one report.

        Raises:
            CollapseError: a term is not finite, or one of the two kinds of collapse lasted for the patience set.
        """
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise CollapseError(
                f"step {step}: the loss {', '.join(broken)} is not finite; {_KEPT}: start again from them with a lower "
                "optimiser.learning_rate, or with precision=fp32."
            )
        for name, value in means.items():
            if name in ("d_hr", "d_lr") and self._lasting(name, value < self.won):
                raise CollapseError(
                    f"step {step}: {name.upper()} has told real from fake without a mistake for "
                    f"{self.settings.patience} reports (loss {value:.2g}), so the generators learn nothing from it; "
                    f"{_KEPT}: lower optimiser.discriminator_learning_rate, or set stability.saturation=0 to go on."
                )
            if name.startswith("cycle_"):
                self._best[name] = min(value, self._best.get(name, math.inf))
                blown = 0 < self.settings.blow_up * self._best[name] < value
                if self._lasting(name, blown):
                    raise CollapseError(
                        f"step {step}: the term {name} has been above {self.settings.blow_up:g} times its best for "
                        f"{self.settings.patience} reports ({value:.2g}, best {self._best[name]:.2g}); {_KEPT}: lower "
                        "losses.lambda_adversarial or optimiser.learning_rate, or set stability.blow_up=0 to go on."
                    )

    def _lasting(self, name: str, suspect: bool) -> bool:
        self._suspect[name] = self._suspect.get(name, 0) + 1 if suspect else 0
        return self._suspect[name] >= self.settings.patience

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Give what a resumed run needs."""
        return {"suspect": dict(self._suspect), "best": dict(self._best)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Restore :meth:`state_dict`."""
        self._suspect = {name: int(value) for name, value in state["suspect"].items()}
        self._best = dict(state["best"])


@torch.no_grad()
def check_weights(step: int, networks: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse weights that are no numbers, before they are written anywhere.

    Raises:
        CollapseError: names the network.
    """
    for name, network in networks:
        # Counters, which may lie on another device, are always finite.
        weights = (value for value in network.state_dict().values() if value.is_floating_point())
        finite = [torch.isfinite(value).all() for value in weights]
        if not bool(torch.stack(finite).all()):
            raise CollapseError(
                f"step {step}: the weights of {name} are not finite; {_KEPT}: start again from them with a lower "
                "optimiser.learning_rate, or with precision=fp32."
            )
