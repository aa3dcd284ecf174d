"""`srcyc train`: train on one's own scans, no pairs needed."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcyc.cli.console import Console, sentence_of
from srcyc.cli.domains import Manifest, domain_table
from srcyc.cli.options import Device
from srcyc.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from srcyc.config import TrainingConfig
    from srcyc.data.gathering import Sources, TrainingSet
    from srcyc.training.distributed import Processes
    from srcyc.training.folder import RunFolder
    from srcyc.training.run import Outcome, Run

#: Seconds that the first process has to tidy up and to say why it failed.
_LAST_WORDS = 3.0


def train(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of this run.")],
    hr: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH...", help="Thin-slice scans, or folders of them."),
    ] = None,
    lr: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...",
            help="Thick-slice scans of anybody (unpaired) or of the same people (paired).",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="default|quick|paper", help="Settings to begin with.", show_default="default"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Settings; see docs/training.md."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. optimiser.learning_rate=1e-4."),
    ] = None,
    manifest: Manifest = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in the folder; it knows its scans and settings."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read the scans, tell what the run would be and take, train and write nothing."
        ),
    ] = False,
    publish: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors",
            help="Put the best model there in the end, unless a better one is there.",
        ),
    ] = None,
    publish_worse: Annotated[
        bool, typer.Option("--publish-worse", help="Put it there whatever is there.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train the networks on your own scans.

    The folder gets checkpoints, history.csv, TensorBoard events, the best model so far, and in the end a report.
    Ctrl-C, SIGTERM and a lost terminal save everything; --resume goes on exactly there. Exit code: 0 trained to the
    end, 2 bad input, 1 training broke down, 128 + the signal's number if stopped by one.
    """
    from srcyc.data.domains import read_manifest
    from srcyc.data.gathering import Sources
    from srcyc.device import resolve_device
    from srcyc.training.distributed import LostProcessError, processes
    from srcyc.training.folder import RunFolder
    from srcyc.training.settings import load_settings
    from srcyc.training.watch.stability import CollapseError

    if check and resume:
        raise ConfigError("--check looks at a run that has not begun; leave --resume out.")
    entries = read_manifest(manifest) if manifest else None
    sources = Sources.of(entries) if entries and not hr and not lr else Sources(lr or [], hr or [], entries)
    if not resume and not sources.hr:
        raise ConfigError(
            "no thin-slice scans given: name them with --hr, or in a manifest with the domain HR."
        )
    if publish is not None and publish.suffix != ".safetensors":
        raise ConfigError(f"--publish {publish}: a model file's name ends in .safetensors.")
    with processes(resolve_device(device)) as team:
        read_settings = functools.partial(load_settings, preset, config, settings or [])
        command = _Training(Console(quiet=not team.is_first), RunFolder(output), team, read_settings)
        if check:
            command.check(sources)
            return
        try:
            with command.folder.claimed() if team.is_first else contextlib.nullcontext():
                run = command.open(sources, resume=resume)
                outcome = command.train(run)
                if team.is_first:
                    command.finish(run, outcome, publish, publish_worse)
        except (CollapseError, ConfigError, LostProcessError, StoppedError) as error:
            if team.is_first:
                raise
            # The first process says the same, or what is behind it; torchrun ends it as soon as another has ended.
            if isinstance(error, LostProcessError):
                time.sleep(_LAST_WORDS)
            raise typer.Exit(sentence_of(error)[1]) from error


@dataclass(frozen=True)
class _Training:
    """One use of the command."""

    console: Console
    folder: RunFolder
    team: Processes
    settings: Callable[..., TrainingConfig]

    def check(self, sources: Sources) -> None:
        """Tell what a run would be and take."""
        from srcyc.data.store import ScanStore
        from srcyc.training.dry_run import estimate
        from srcyc.training.run import with_initial_model
        from srcyc.training.watch.progress import duration

        config, _ = with_initial_model(self.settings())
        with tempfile.TemporaryDirectory(prefix="srcyc-check-") as folder:
            store = ScanStore(Path(folder))
            scans = sources.gather(config, store)
            self._tell(scans, config)
            found = estimate(config, scans, store, self.team.device)
        say = self.console.say
        low, high = found.factors
        epochs = -(-config.steps // config.validate_every)
        say(f"factors of the batches looked at: {low:.2f} to {high:.2f}")
        say("trained numbers: " + ", ".join(f"{name} {count:,}" for name, count in found.parameters.items()))
        epoch, all_of_it = (
            duration(found.seconds_per_step * n) for n in (config.validate_every, config.steps)
        )
        say(
            f"time: {found.seconds_per_step:.2f} s per step, {epoch} per epoch of {config.validate_every} steps, "
            f"{all_of_it} for {epochs} epochs, validation not included"
        )
        if found.memory is not None:
            say(f"memory: {found.memory / 1e9:.1f} GB at most so far")
        say("checked only: nothing was trained, nothing is written.")

    def open(self, sources: Sources, *, resume: bool) -> Run:
        """Begin a run, or take it up again; then its settings may be repeated."""
        from srcyc.training.run import Run

        if not resume:
            return Run.begin(self.folder, self.settings(), sources, self.team)
        if sources.lr or sources.hr or sources.manifest:
            self.console.say("resuming with the scans that the run was begun with")
        return Run.resume(self.folder, lambda begun: self.settings(base=begun), self.team)

    def train(self, run: Run) -> Outcome:
        """Train a run to its end."""
        from srcyc.training.watch.progress import Listener, progress_line

        self._tell(run.plan.scans, run.plan.config)
        with self.console.training(run.plan.config.steps) as show:
            return run.train(
                Listener(lambda progress: show(progress.step, progress_line(progress)), self.console.warn)
            )

    def finish(self, run: Run, outcome: Outcome, publish: Path | None, publish_worse: bool) -> None:
        """Tell what came of it, publish, and tidy up."""
        state, metric = outcome.state, run.plan.config.validation.key_metric
        if outcome.validator:
            measured = (
                f"{metric} against the classical inverse"
                if metric != "cycle"
                else "negated forward-cycle error"
            )
            self.console.say(
                f"\nbest after step {state.best_step} of {state.done}: {measured} {state.best:+.4g} on held-back "
                f"people (at the start {state.initial:+.4g})"
            )
        else:
            self.console.warn(
                "nobody was held back: the model is that of the last step, and nothing was measured."
            )
        if outcome.got_worse:
            self.console.warn(
                "the model that training started from was better on the held-back scans; keep using that one, or try a "
                "lower learning rate or smaller adversarial weights."
            )
        for path in outcome.report:
            self.console.say(f"written: {path}")
        if publish is not None:
            verdict = run.publish(outcome, publish, even_if_worse=publish_worse)
            if verdict.published:
                self.console.say(f"published: {publish}, {verdict.reason}")
            else:
                self.console.warn(
                    f"{publish} was left as it is: {verdict.reason}; --publish-worse replaces it."
                )
        run.tidy()
        self.console.say(
            f"model: {outcome.model} (use it with: srcyc infer SCAN -o OUT --model {outcome.model})"
        )

    def _tell(self, scans: TrainingSet, config: TrainingConfig) -> None:
        for title, some in scans.tables():
            self.console.say(f"{title}:")
            self.console.table(domain_table(some))
            self.console.say()
        pairs = f" on {len(scans.pairs)} pairs" if scans.pairs else ""
        several = f", {self.team.world} processes" if self.team.world > 1 else ""
        self.console.say(
            f"{config.mode} training{pairs}, {config.steps} steps on {self.team.device}{several}"
        )
