from __future__ import annotations

from pathlib import Path

import pytest

from srcyc.config import TrainingConfig
from srcyc.errors import ConfigError
from srcyc.training.settings import load_settings, presets


def test_the_presets() -> None:
    assert presets() == ["default", "generator", "paper", "quick"]
    assert load_settings() == load_settings("default") == TrainingConfig()
    assert load_settings("quick").mode == "generator-only"


def test_the_recipe_of_the_shipped_generator() -> None:
    """METHOD.md, section 4: on the scan's own slices, relative squared error, many factors, spoiled by and by, Muon."""
    found = load_settings("generator")
    assert (found.mode, found.content, found.g_hr.name) == ("generator-only", "relative", "sliceresdnet")
    assert (found.optimiser.algorithm, found.optimiser.gradient_clip, found.optimiser.ema_decay) == (
        *("muon", 0.5, 0.998),
    )
    data = found.data
    assert data.factor_range[0] <= 2 and data.factor_range[1] >= 9, "the shipped scans need 8.3"
    assert data.batch_size > 1
    assert 0 < data.spoil.begin < data.spoil.full < found.steps
    assert data.spoil.strength(found.steps) == 1
    assert found.losses.lambda_content == 1


@pytest.mark.parametrize("name", ["default", "generator", "paper", "quick"])
def test_every_preset_says_what_it_needs_and_can_be_written_and_read(name: str) -> None:
    found = load_settings(name)
    assert TrainingConfig.model_validate(found.model_dump(mode="json")) == found
    assert found.g_hr.name in ("sliceresdnet", "srresdnet")
    assert found.steps >= found.validate_every


def test_the_papers_schedule() -> None:
    """METHOD.md: 51k iterations, batch 16, Adam 1e-4 halved at 5k, 10k, 20k, 30k; relativistic; pairs."""
    paper = load_settings("paper")
    assert (paper.mode, paper.adversarial, paper.steps, paper.data.batch_size) == (
        *("paired", "relativistic", 51_000, 16),
    )
    assert paper.optimiser.milestones == (5_000, 10_000, 20_000, 30_000)
    assert (paper.optimiser.learning_rate, paper.optimiser.gamma, paper.optimiser.betas) == (
        *(1e-4, 0.5, (0.9, 0.999)),
    )
    losses = paper.losses
    assert (losses.lambda_content, losses.lambda_cycle, losses.lambda_perceptual) == (10, 10, 1)
    assert (paper.content, paper.g_hr.name) == ("l1", "srresdnet")
    assert paper.g_hr.model_dump()["features"] == 64


def test_later_settings_win_and_leave_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\ndata: {size: 32}\n")
    found = load_settings("quick", file, ["data.size=24", "optimiser.learning_rate=1e-5"])
    assert (found.steps, found.data.size, found.data.batch_size) == (7, 24, 2)
    assert found.optimiser.learning_rate == 1e-5
    assert found.optimiser.warm_up == load_settings("quick").optimiser.warm_up


def test_repeating_what_a_run_was_begun_with_changes_nothing() -> None:
    given = ("quick", None, ["steps=9"])
    begun = load_settings(*given)
    assert load_settings(*given, base=begun) == begun
    assert load_settings(base=begun) == begun
    assert load_settings(None, None, ["keep_checkpoints=9"], base=begun).steps == 9


def test_weights_default_by_mode_and_can_be_given() -> None:
    alone = load_settings(single=["mode=generator-only"]).losses
    assert (alone.lambda_content, alone.lambda_adversarial, alone.lambda_cycle) == (1, 0, 0)
    both = load_settings(single=["losses.lambda_tv=0.5"]).losses
    assert (both.lambda_tv, both.lambda_cycle, both.lambda_content) == (0.5, 10, 0)
    assert load_settings(single=["mode=paired"]).losses.lambda_content == 10


@pytest.mark.parametrize(
    ("preset", "text", "single", "sentence"),
    [
        ("fast", None, [], r"preset 'fast': choose one of default, generator, paper, quick\."),
        (None, "stepz: 3", [], r"mine\.yaml: stepz: Extra inputs"),
        (None, "steps: [", [], r"mine\.yaml: not a readable YAML file"),
        (None, "- 1", [], r"mine\.yaml: a training file is a mapping"),
        (None, None, ["steps=many"], r"steps: .*\(got 'many'\)"),
        (None, None, ["steps"], r"^set 'steps': write KEY=VALUE"),
        (None, None, ["steps.of=3"], r"^set 'steps.of=3': steps holds a value"),
        (None, None, ["mode=generator-only", "losses.lambda_cycle=1"], r"mode generator-only has G_HR alone"),
        (None, None, ["validation.key_metric=lpips"], r"set validation\.lpips"),
        (None, None, ["mode=generator-only", "validation.key_metric=cycle"], r"needs G_LR"),
        (
            None,
            "g_hr: {name: unet}",
            [],
            r"g_hr: no generator is called 'unet': use one of sliceresdnet, srresdnet",
        ),
        (None, None, ["g_hr=sliceresdnet"], r"g_hr: give the generator's name and arguments"),
        (None, None, ["g_hr.features=12"], r"g_hr\.features: .*multiple of 8"),
        (None, None, ["data.slices=[9, 4]"], r"data: data\.slices: give the fewest first\.$"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(
    tmp_path: Path, preset: str | None, text: str | None, single: list[str], sentence: str
) -> None:
    file = None
    if text is not None:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
    if single == ["steps.of=3"]:
        single = ["steps=1", *single]
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_settings(preset, file, single)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_single_settings_are_numbers_lists_and_words() -> None:
    given = [
        "optimiser.learning_rate=1e-4",
        "data.held_back=[sub-e, anne]",
        "card.name=tree",
        "card.title=1 e",
    ]
    found = load_settings(single=given)
    assert found.optimiser.learning_rate == 1e-4
    assert found.data.held_back == ("sub-e", "anne")
    assert (found.card.name, found.card.title) == ("tree", "1 e")
