"""`critic-r1 demo --variant NAME`: each way to judge has its data, its texts, its lengths and its reward."""

import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from typer.testing import CliRunner

from data_prep.sources.digits import QUESTION
from recipe.critic_r1.cli import app
from recipe.critic_r1.demo import VariantName, phrases, stages, warm_start
from recipe.critic_r1.demo.model import build_tokenizer
from recipe.critic_r1.demo.phrases import PLAIN, VARIANTS
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings, StageFailed
from recipe.critic_r1.demo.worlds import Digits
from tests.config.test_configs import composed

NAMES = [None, *get_args(VariantName)]


def test_every_variant_has_its_texts() -> None:
    assert list(VARIANTS) == NAMES


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        (None, {"critic/digits": {"1": 3, "2": 3}}),
        ("grounded", {"critic/digits": {"1": 3, "2": 3}}),
        ("swap_consistency", {"critic/digits": {"1": 6, "2": 6}}),
        ("counterfactual", {"critic/digits": {"1": 6, "2": 6}, "critic/digits_twin": {"tie": 6}}),
        ("nway", {"critic_nway/digits": {"1": 2, "2": 2, "3": 1, "4": 1}}),
    ],
)
def test_training_tasks(
    variant: VariantName | None,
    rows: dict[str, dict[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Digits, "sizes", {"n_warm_start": 10, "n_rl": 6, "n_test": 4})
    monkeypatch.setattr(
        warm_start,
        "hard_negatives",
        lambda warm, items, seed, world, n: [[str((int(i.answer) + k) % 10) for k in range(1, n + 1)] for i in items],
    )
    (tmp_path / "model" / "warm").mkdir(parents=True)
    stages.prepare(tmp_path, seed=0, flip_labels=0.0, world="digits", variant=variant, coherence_gate=None)
    found: dict[str, list[Any]] = {
        split: pq.read_table(tmp_path / "data" / "critic" / f"{split}-00000.parquet").to_pylist()
        for split in ("train", "test")
    }
    labels = Counter((row["data_source"], row["reward_model"]["ground_truth"]) for row in found["train"])
    assert labels == {(source, label): n for source, counts in rows.items() for label, n in counts.items()}
    for row in found["train"]:
        # The warm start teaches these very prompts.
        info = row["extra_info"]
        shown = info["responses"] or [info["response_1"], info["response_2"]]
        assert row["prompt"][0]["content"] == VARIANTS[variant].critic_prompt(info["question"], shown)
        if row["reward_model"]["ground_truth"].isdigit():
            assert len({*shown}) == len(shown) == VARIANTS[variant].responses
    # Every variant is evaluated on the same pairs, in both orders.
    assert {row["data_source"] for row in found["test"]} == {"critic/digits"}
    assert Counter(row["extra_info"]["order"] for row in found["test"]) == {0: 4, 1: 4}
    assert json.loads((tmp_path / "data" / "critic" / "manifest.json").read_text())["settings"]["variant"] == variant


@pytest.mark.parametrize("variant", NAMES)
def test_the_texts_of_a_variant_fit_its_lengths_and_earn_its_full_reward(
    variant: VariantName | None, tmp_path: Path
) -> None:
    form, run = VARIANTS[variant], DemoRun(tmp_path, DemoSettings(variant=variant), Console())
    config = composed("demo", *run.train_overrides())
    settings: Any = OmegaConf.to_container(config.reward.custom_reward_function, resolve=True)
    reward = import_module(settings["path"].removeprefix("pkg://"))
    tokenizer = build_tokenizer(variant=form)
    shown = ("3", "5", "7", "1")[: form.responses]
    responses = [
        (str(place + 1), form.critic_response(digit, shown, str(place + 1))) for place, digit in enumerate(shown)
    ]
    if form.ties:
        responses.append(("tie", form.critic_response("0", shown, "tie")))
    evaluated = next(stage.command for stage in run.stages() if stage.name == "evaluate-after")
    limit = int(evaluated[evaluated.index("--max-tokens") + 1]) if "--max-tokens" in evaluated else 24
    for label, response in responses:
        found = reward.compute_score("critic/digits", response, label, {}, **(settings.get("reward_kwargs") or {}))
        assert (found["score"], found.get("chain", 1.0)) == (pytest.approx(1.0), 1.0), response
        length = len(tokenizer.encode(response)) + 1
        assert length + 6 <= config.data.max_response_length
        assert length + 10 <= limit
    # 19 - 1 of the prompt's tokens are the chat's and the image's; see test_model.
    around = 38 - len(build_tokenizer().encode(PLAIN.critic_prompt(QUESTION, ("7", "3"))))
    prompt = around + len(tokenizer.encode(form.critic_prompt(QUESTION, shown)))
    assert prompt + 26 <= config.data.max_prompt_length
    assert (
        config.data.max_prompt_length + config.data.max_response_length < config.actor_rollout_ref.rollout.max_model_len
    )


def test_a_variant_without_new_words_starts_from_the_plain_tokenizer() -> None:
    same = [
        name
        for name, form in VARIANTS.items()
        if build_tokenizer(variant=form).get_vocab() == build_tokenizer().get_vocab()
    ]
    assert same == [None, "swap_consistency", "nway"]


def test_words_are_single_tokens() -> None:
    for form in VARIANTS.values():
        tokens = build_tokenizer(variant=form).tokenize(
            form.critic_response("3", ("3", "5"), "1") + phrases.policy_response("3", "3")
        )
        letters = [token.lstrip("Ġ") for token in tokens]
        assert not [letter for letter in letters if len(letter) == 1 and letter.isalpha() and letter not in "Ia"]


def test_the_option_reaches_the_stages_and_stays_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = DemoRun(tmp_path, DemoSettings(variant="nway"), Console())
    prepare = run.stages()[0].command
    assert prepare[prepare.index("--variant") + 1] == "nway"
    assert "+variant=nway" in run.train_overrides()
    seen: list[DemoSettings] = []

    def record(self: DemoRun) -> Path:
        self._open_record()
        seen.append(self.settings)
        return tmp_path

    monkeypatch.setattr(DemoRun, "run", record)
    monkeypatch.setattr("recipe.critic_r1.cli.demo.show_results", lambda out: None)
    for words in (["--variant", "grounded"], ["--resume"]):
        result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "run"), *words])
        assert result.exit_code == 0, result.output
    assert [settings.variant for settings in seen] == ["grounded", "grounded"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["name"] == "demo (grounded)"


@pytest.mark.parametrize("variant", ["counterfactual", "nway"])
def test_the_control_is_for_pairs(variant: VariantName) -> None:
    with pytest.raises(StageFailed, match=f"--flip-labels flips labels 1 and 2; --variant {variant} has others"):
        DemoSettings(variant=variant, flip_labels=0.5)


def test_a_record_with_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"asked": {"variant": "odd", "overrides": []}, "stages": []}')
    with pytest.raises(StageFailed, match=r"not the record of a demo run.*no variant 'odd'"):
        DemoSettings.of_run(tmp_path)
