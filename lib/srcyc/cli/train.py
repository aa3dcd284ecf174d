"""`srcyc train`: train on one's own scans, no pairs needed."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcyc.cli.console import Console, sentence_of
from srcyc.cli.domains import Manifest, domain_table
from srcyc.cli.options import Device
from srcyc.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from srcyc.config import TrainingConfig
    from srcyc.data.domains import ManifestEntry
    from srcyc.data.gathering import TrainingSet
    from srcyc.training.distributed import Processes
    from srcyc.training.folder import RunFolder
    from srcyc.training.loop import Progress
    from srcyc.training.run import Outcome

    #: What a manifest says of the scans it names.
    Entries = dict[Path, ManifestEntry] | None

#: Seconds that the first process has to tidy up and to say why it failed.
_LAST_WORDS = 3.0


def train(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of this run.")],
    hr: Annotated[
        list[Path] | None,
        typer.Option("--hr", metavar="PATH...", help="Thin-slice scans, or folders of them."),
    ] = None,
    lr: Annotated[
        list[Path] | None,
        typer.Option(
            "--lr",
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
        typer.Option(metavar="FILE.yaml", help="Settings; see docs/training.md.", show_default=False),
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
            show_default=False,
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
    from srcyc.device import resolve_device
    from srcyc.training.distributed import LostProcessError, processes
    from srcyc.training.folder import RunFolder
    from srcyc.training.watch.stability import CollapseError

    if check and resume:
        raise ConfigError("--check looks at a run that has not begun; leave --resume out.")
    entries = _manifest(manifest)
    if entries and not hr and not lr:
        lr, hr = _scans_of(entries)
    if not resume and not hr:
        raise ConfigError(
            "no thin-slice scans given: name them with --hr, or in a manifest with the domain HR."
        )
    if publish is not None and publish.suffix != ".safetensors":
        raise ConfigError(f"--publish {publish}: a model file's name ends in .safetensors.")
    with processes(resolve_device(device)) as team:
        command = _Training(
            Console(quiet=not team.is_first), RunFolder(output), team, settings or [], preset, config
        )
        if check:
            command.check(lr or [], hr or [], entries)
            return
        try:
            with command.claimed():
                outcome = command.train(lr or [], hr or [], entries, resume=resume)
                if team.is_first:
                    command.finish(outcome, publish, publish_worse)
        except (CollapseError, ConfigError, LostProcessError, StoppedError) as error:
            if team.is_first:
                raise
            # The first process says the same, or what is behind it; torchrun ends it as soon as another has ended.
            if isinstance(error, LostProcessError):
                time.sleep(_LAST_WORDS)
            raise typer.Exit(sentence_of(error)[1]) from error


class _Training:
    """One use of the command."""

    def __init__(
        self,
        console: Console,
        run: RunFolder,
        team: Processes,
        single: list[str],
        preset: str | None,
        file: Path | None,
    ) -> None:
        self.console = console
        self.run = run
        self.team = team
        self._given = (preset, file, single)

    def settings(self, base: TrainingConfig | None = None) -> TrainingConfig:
        """Read the settings; those of a run that is resumed may be repeated."""
        from srcyc.training.loop import check_same_config
        from srcyc.training.settings import load_settings

        config = load_settings(*self._given, base=base)
        self.team.share.items(config.data.batch_size)  # refuses a batch that cannot be shared
        if base is not None:
            check_same_config(base.model_dump(mode="json"), config, self.run.path)
        return config

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other trainings out of the folder; the first process does."""
        if not self.team.is_first:
            yield
            return
        with self.run.claimed():
            yield

    def check(self, lr: list[Path], hr: list[Path], manifest: Entries) -> None:
        """Tell what a run would be and take."""
        from srcyc.data.gathering import gather
        from srcyc.data.store import ScanStore
        from srcyc.training.dry_run import estimate
        from srcyc.training.run import with_initial_model
        from srcyc.training.watch.progress import duration

        config, _ = with_initial_model(self.settings())
        with tempfile.TemporaryDirectory(prefix="srcyc-check-") as folder:
            store = ScanStore(Path(folder))
            scans = gather(config, lr, hr, manifest, store)
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

    def train(self, lr: list[Path], hr: list[Path], manifest: Entries, *, resume: bool) -> Outcome:
        """Begin a run, or take it up again, and train it to its end."""
        from srcyc.training.run import begin, train
        from srcyc.training.watch.progress import progress_line

        if not resume:
            settings = self.settings()
            if self.team.is_first:
                begin(self.run, settings, lr, hr, manifest)
        elif lr or hr or manifest:
            self.console.say("resuming with the scans that the run was begun with")
        self.team.wait()
        base, scans, _ = self.run.reopen()
        config = self.settings(base) if resume else base
        self._tell(scans, config)
        with self.console.training(config.steps) as show:

            def report(progress: Progress) -> None:
                show(progress.step, progress_line(progress))

            return train(
                self.run,
                self.team,
                config=config,
                resume=resume,
                report=report,
                warn=self.console.warn,
            )

    def finish(self, outcome: Outcome, publish: Path | None, publish_worse: bool) -> None:
        """Tell what came of it, publish, and tidy up."""
        from srcyc.training.publishing import publish_if_better

        base, _, _ = self.run.reopen()
        state, metric = outcome.state, base.validation.key_metric
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
            verdict = publish_if_better(
                outcome.model, publish, outcome.validator, metric, even_if_worse=publish_worse
            )
            if verdict.published:
                self.console.say(f"published: {publish}, {verdict.reason}")
            else:
                self.console.warn(
                    f"{publish} was left as it is: {verdict.reason}; --publish-worse replaces it."
                )
        self.run.remove_prepared_scans()
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


def _manifest(path: Path | None) -> Entries:
    from srcyc.data.domains import read_manifest

    return read_manifest(path) if path else None


def _scans_of(entries: dict[Path, ManifestEntry]) -> tuple[list[Path], list[Path]]:
    """Give the LR and the HR scans that a manifest names."""
    from srcyc.data.domains import Domain

    lr, hr = (
        [path for path, entry in entries.items() if entry.domain is domain]
        for domain in (Domain.LR, Domain.HR)
    )
    return lr, hr
