"""`+stage=text_then_image`: two runs, the second on the first one's model; a restart repeats nothing that is done."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.launch.staged import MARK, StageError, stages_of, train_in_stages
from recipe.critic_r1.train import compose_config, train

CONFIGS = Path(__file__).parents[2] / "recipe" / "critic_r1" / "config"
FILES = ("text.train_files", "text.val_files", "image.train_files", "image.val_files")


def words(folder: Path) -> list[str]:
    for name in FILES:
        (folder / name).touch()
    files = [f"critic_r1.stages.{name}={folder / name}" for name in FILES]
    return ["+stage=text_then_image", f"critic_r1.run_dir={folder / 'run'}", "trainer.total_epochs=2", *files]


class Calls:
    """Records commands; ends them with the given statuses, then with 0."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.commands = list(statuses), []  # type: ignore[var-annotated]

    def __call__(self, command: Sequence[str]) -> int:
        self.commands.append(list(command[2:]))
        return self.statuses.pop(0) if self.statuses else 0


def run(folder: Path, calls: Calls, *more: str) -> int:
    overrides = [*words(folder), *more]
    return train_in_stages(compose_config("r1", overrides), "r1", overrides, calls)


def resume(folder: Path, calls: Calls) -> int:
    """The same with the part of the configuration that the stages read."""
    overrides, stages = words(folder), OmegaConf.load(CONFIGS / "stage" / "text_then_image.yaml")
    config = OmegaConf.merge(stages, OmegaConf.from_dotlist(overrides[1:]))
    assert isinstance(config, DictConfig)
    return train_in_stages(config, "r1", overrides, calls)


def test_two_runs_and_the_model_between(tmp_path: Path) -> None:
    calls = Calls()
    assert run(tmp_path, calls, 'critic_r1.stages.image.overrides=["trainer.total_epochs=1"]') == 0
    text, export, image = calls.commands
    model = str(tmp_path / "run/text_model")
    assert export == ["recipe.critic_r1.cli", "export", str(tmp_path / "run/text"), "--out", model]
    for command, name, epochs in ((text, "text", 2), (image, "image", 1)):
        assert command[:3] == ["recipe.critic_r1.train", "--config-name", "r1"]
        config = compose_config("r1", command[3:])
        assert not stages_of(config)
        assert config.critic_r1.run_dir == str(tmp_path / "run" / name)
        assert config.data.train_files == str(tmp_path / f"{name}.train_files")
        assert config.data.val_files == str(tmp_path / f"{name}.val_files")
        assert config.trainer.total_epochs == epochs
        assert (config.actor_rollout_ref.model.path == model) == (name == "image")
    assert json.loads((tmp_path / "run/text" / MARK).read_text())["stage"] == "text"


@pytest.mark.parametrize(
    ("statuses", "asked", "again"),
    [
        ((75,), ["train"], ["train", "cli", "train"]),
        ((0, 2), ["train", "cli"], ["train", "cli", "train"]),
        ((0, 0, 1), ["train", "cli", "train"], ["train"]),
    ],
)
def test_a_stage_that_ends_badly_is_resumed_and_none_before_it(
    statuses: tuple[int, ...], asked: list[str], again: list[str], tmp_path: Path
) -> None:
    def kinds(calls: Calls) -> list[str]:
        return [command[0].rpartition(".")[2] for command in calls.commands]

    first, second = Calls(*statuses), Calls()
    assert resume(tmp_path, first) == statuses[-1]
    assert kinds(first) == asked
    assert resume(tmp_path, second) == 0
    assert kinds(second) == again
    assert compose_config("r1", second.commands[-1][3:]).actor_rollout_ref.model.path == str(
        tmp_path / "run/text_model"
    )
    third = Calls()
    assert run(tmp_path, third) == 0
    assert third.commands == []


def test_all_files_are_looked_for_before_the_first_stage(tmp_path: Path) -> None:
    calls, overrides = Calls(), words(tmp_path)
    (tmp_path / "image.val_files").unlink()
    with pytest.raises(StageError, match=r"critic_r1\.stages\.image\.val_files: .* does not exist"):
        train_in_stages(compose_config("r1", overrides), "r1", overrides, calls)
    assert calls.commands == []
    assert train("r1", ["+stage=text_then_image"]) == 2
    with pytest.raises(StageError, match=r"data\.train_files=x: each stage has its own"):
        run(tmp_path, calls, "data.train_files=x")


def test_an_ordinary_run_has_no_stages() -> None:
    assert stages_of(compose_config("r1", [])) == {}
