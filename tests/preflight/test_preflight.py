"""What can be known to fail is refused before Ray starts, with file, row and remedy."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig
from typer.testing import CliRunner

from data_prep.tasks.pairwise import SCHEMA, Image, PolicyTask, PreferencePair, PreferenceTask
from recipe.critic_r1 import preflight, provenance
from recipe.critic_r1.preflight import data_files, memory, model_folder, ray_cluster, reward_function, sizes, storage
from tests.preflight.conftest import SOURCES, composed, every_refusal_was_made

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b8"
    "0000000049454e44ae426082"
)


def rows(n: int) -> list[dict[str, Any]]:
    return [
        PreferenceTask(
            PreferencePair("digits", (Image(PNG),), f"Question {i}?", ("7", "3"), 0), order=i % 2, index=i
        ).row()
        for i in range(n)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)
    return path


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of the real architecture, tokenizer, processor and chat template."""
    from recipe.critic_r1.demo.model import build_model

    return build_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(autouse=True)
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines of the estimates have it."""
    monkeypatch.setattr("recipe.critic_r1.preflight.memory_estimate.has_flash_attn", lambda: True)


@pytest.fixture
def good(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    return {
        "data.train_files": str(write(tmp_path / "train.parquet", rows(32))),
        "data.val_files": str(write(tmp_path / "val.parquet", rows(2))),
        "actor_rollout_ref.model.path": str(model),
        "critic_r1.run_dir": str(tmp_path / "run"),
        "critic_r1.min_free_memory_gb": "0.1",
    }


def config(given: dict[str, str], name: str = "demo") -> DictConfig:
    return composed(name, given)


def test_a_good_run_passes(good: dict[str, str]) -> None:
    assert {finding.status for finding in preflight.check(config(good))} == {"pass"}


def test_the_command_prints_findings_and_ends_with_2_when_one_fails(good: dict[str, str]) -> None:
    from recipe.critic_r1.cli import app

    arguments = ["preflight", "--config-name", "demo", *(f"{key}={value}" for key, value in good.items())]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0
    assert {finding["status"] for finding in json.loads(done.stdout)} == {"pass"}
    done = CliRunner().invoke(app, [*arguments, "data.max_response_length=4000"])
    assert done.exit_code == 2
    assert "FAIL  rollout.max_model_len" in done.stdout


def no_file(folder: Path) -> str:
    return str(folder / "absent.parquet")


def not_parquet(folder: Path) -> str:
    path = folder / "cut.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    return str(path)


def empty(folder: Path) -> str:
    return str(write(folder / "empty.parquet", []))


def bad_label(folder: Path) -> str:
    records = rows(32)
    records[7]["reward_model"]["ground_truth"] = "first"
    return str(write(folder / "label.parquet", records))


def all_labels_bad(folder: Path) -> str:
    records = rows(32)
    for record in records:
        record["reward_model"]["ground_truth"] = "first"
    return str(write(folder / "labels.parquet", records))


def bad_image(folder: Path) -> str:
    records = rows(32)
    records[9]["images"] = [{"bytes": PNG[:40], "path": None}]
    return str(write(folder / "image.parquet", records))


def missing_image(folder: Path) -> str:
    records = rows(32)
    records[3]["images"] = []
    return str(write(folder / "markers.parquet", records))


def too_few(folder: Path) -> str:
    return str(write(folder / "few.parquet", rows(3)))


def no_answer(folder: Path) -> str:
    records = [*rows(31), PolicyTask("digits", (Image(PNG),), "Which?", "").row()]
    return str(write(folder / "answer.parquet", records))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_file, [r"absent\.parquet", "no such file", "critic-r1 prepare"]),
        (not_parquet, [r"cut\.parquet", "not a readable Parquet file"]),
        (empty, [r"empty\.parquet", "row"]),
        (bad_label, [r"label\.parquet, row 7", "first"]),
        (all_labels_bad, [r"labels\.parquet, row 9", "22 more failures of this kind"]),
        (bad_image, [r"image\.parquet, row 9"]),
        (missing_image, [r"markers\.parquet, row 3"]),
        (too_few, ["3 training rows", "train_batch_size"]),
        (no_answer, [r"answer\.parquet, row 31"]),
    ],
)
def test_bad_data_is_named(good: dict[str, str], tmp_path: Path, make: Callable[[Path], str], said: list[str]) -> None:
    good["data.train_files"] = make(tmp_path)
    with pytest.raises(preflight.PreflightError) as error:
        preflight.check(config(good))
    for pattern in said:
        assert error.match(pattern)


def test_data_of_an_older_version_is_named_once(good: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "argv": ["prepare", "generic"]}))
    found = [finding for finding in preflight.findings(config(good)) if finding.status == "fail"]
    assert [finding.check for finding in found] == ["data"]
    assert "was written by an older version" in found[0].detail


def test_images_that_stock_verl_shows_differently_are_named(good: dict[str, str], tmp_path: Path) -> None:
    file = io.BytesIO()
    PIL.Image.new("LA", (32, 32)).save(file, "PNG")
    pair = PreferencePair("digits", (Image(file.getvalue()),), "Which?", ("7", "3"), 0)
    records = [*rows(31), PreferenceTask(pair, order=0, index=31).row()]
    good["data.train_files"] = str(write(tmp_path / "transparent.parquet", records))
    assert [finding.status for finding in data_files.rows(config(good))] == ["pass", "pass"]
    found = list(data_files.rows(config(good | {"critic_r1.image_path": "stock"})))
    assert [finding.status for finding in found] == ["pass", "warn", "pass"]
    assert "1 images are shown differently by stock verl" in found[1].detail


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("critic_r1.min_free_memory_gb", "1000000", "host memory: .* free, 1000000 GB needed"),
        ("actor_rollout_ref.model.path", "/no/such/model", "/no/such/model is not a folder"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "5", "not a multiple of actor.ppo_mini_batch_size=5"),
        (
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
            "100",
            "256 do not divide into micro-batches of 100",
        ),
        ("trainer.n_gpus_per_node", "3", r"a mini-batch of 32 prompts x 8 rollouts does not divide among 3 worker"),
        ("data.max_response_length", "4000", "more than rollout.max_model_len"),
        ("critic_r1.run_dir", "/proc/run", "/proc/run cannot be written"),
    ],
)
def test_a_setting_that_cannot_work_is_named(good: dict[str, str], key: str, value: str, said: str) -> None:
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(config(good | {key: value}))


def test_a_missing_value_is_named(good: dict[str, str]) -> None:
    del good["data.val_files"]
    with pytest.raises(preflight.PreflightError, match=r"data\.val_files has no value"):
        preflight.check(config(good))


def test_a_prompt_that_was_measured_too_long_is_named(good: dict[str, str], tmp_path: Path) -> None:
    records = rows(32)
    records[5]["extra_info"]["prompt_tokens"] = 65
    good["data.train_files"] = str(write(tmp_path / "long.parquet", records))
    with pytest.raises(preflight.PreflightError, match=r"long\.parquet: the longest prompt has 65 tokens"):
        preflight.check(config(good))


def test_another_verl_is_refused(good: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.critic_r1.compat.VERL", "0.1.0")
    with pytest.raises(preflight.PreflightError, match=r"verl 0\.9\.1 is installed.*verl 0\.1\.0"):
        preflight.check(config(good))
    own = [f for f in ray_cluster.versions(config(good | {"critic_r1.image_path": "stock"})) if f.status != "pass"]
    assert [(f.status, "verl 0.9.1 is installed" in f.detail) for f in own] == [("warn", True)]


ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model.path"
KWARGS = "+reward.custom_reward_function.reward_kwargs"

# One line makes one check fail or warn: the check, the configuration, what is changed, the status, what is said.
SETTINGS = [
    (sizes.parallel, "r1", {"trainer.n_gpus_per_node": "5"}, "fail", "5 GPU.* do not divide into rollout engines of 2"),
    (sizes.parallel, "r1", {f"{ROLLOUT}.tensor_model_parallel_size": "8"}, "fail", "28 attention heads .* by .*=8"),
    (sizes.parallel, "r1", {f"{ACTOR}.ulysses_sequence_parallel_size": "8"}, "fail", "28 attention heads .*parallel"),
    (sizes.parallel, "r1", {f"{ACTOR}.ulysses_sequence_parallel_size": "3"}, "fail", "8 GPU.* into groups of 3"),
    (
        sizes.parallel,
        "r1",
        {f"{ACTOR}.ulysses_sequence_parallel_size": "2", "actor_rollout_ref.model.use_remove_padding": "false"},
        "fail",
        "needs padding removal",
    ),
    (
        sizes.parallel,
        "r1",
        {"cluster": "1x2", f"{ROLLOUT}.tensor_model_parallel_size": "4", "trainer.nnodes": "2"},
        "warn",
        "spans machines of 2 GPU",
    ),
    (sizes.batches, "r1", {"trainer.nnodes": "3"}, "fail", "1024|24 worker"),
    (sizes.batches, "r1", {"cluster": "8x8", f"{ACTOR}.ppo_micro_batch_size_per_gpu": "32"}, "fail", "of 32 on 64"),
    (sizes.room, "r1", {"data.max_response_length": "4096"}, "fail", "= 10238 is more than rollout.max_model_len=8192"),
    (sizes.room, "r1", {"tuning": "fast", f"{ACTOR}.ppo_max_token_len_per_gpu": "8000"}, "fail", "of 8190 tokens does"),
    (
        sizes.room,
        "r1",
        {f"{ROLLOUT}.enable_chunked_prefill": "false", f"{ROLLOUT}.max_num_batched_tokens": "4096"},
        "fail",
        "a prompt can be longer than 4096 tokens",
    ),
    (sizes.prompts, "r1", {"critic_r1.prompt_path": "twice"}, "fail", "'twice' is neither 'once' nor 'stock'"),
    (sizes.prompts, "r1", {f"{ACTOR}.ulysses_sequence_parallel_size": "2"}, "warn", "ulysses.* cuts sequences"),
    (sizes.prompts, "r1", {"tuning": "async"}, "warn", "colocate_async does not share prompts"),
    (sizes.trainer, "r1", {"tuning": "async"}, "warn", "colocate_async is verl's own"),
    (
        sizes.trainer,
        "r1",
        {"tuning": "async", "variant": "swap_consistency"},
        "fail",
        "does not know .*swap_consistency",
    ),
    (
        reward_function.options,
        "r1",
        {f"{KWARGS}.format_wieght": "0.2"},
        "fail",
        "no option format_wieght; did you mean format_weight",
    ),
    (reward_function.options, "r1", {f"{KWARGS}.format_weight": "2"}, "fail", r"format_weight .* must lie in \[0, 1\]"),
    (
        reward_function.options,
        "r1",
        {"ablation": "critic_and_policy", f"{KWARGS}.answer.symbolc": "false"},
        "fail",
        "no option answer.symbolc; did you mean symbolic",
    ),
    (
        reward_function.options,
        "r1",
        {"ablation": "critic_and_policy", f"{KWARGS}.tie_credit": "0.3"},
        "fail",
        "no option tie_credit",
    ),
    (
        reward_function.options,
        "r1",
        {"reward.custom_reward_function.name": "compute_scores"},
        "fail",
        "compute_scores does not load .AttributeError",
    ),
    (
        memory.estimate,
        "r1",
        {f"{ACTOR}.ppo_micro_batch_size_per_gpu": "16"},
        "fail",
        "training: about .* of 80: .*logits",
    ),
    (memory.estimate, "r1", {f"{ACTOR}.ppo_micro_batch_size_per_gpu": "13"}, "warn", "training: about 7. GiB of 80"),
    (memory.estimate, "r1", {f"{ROLLOUT}.gpu_memory_utilization": "0.9"}, "fail", "rollout: about 8. GiB of 80"),
    (
        memory.estimate,
        "r1",
        {f"{ROLLOUT}.gpu_memory_utilization": "0.15", f"{ROLLOUT}.tensor_model_parallel_size": "1"},
        "fail",
        "KV cache: about 0 tokens.*not one of 8190",
    ),
    (memory.estimate, "r1", {"critic_r1.machine.host_memory_gib": "96"}, "fail", "host memory: about .* of 96"),
    (memory.estimate, "r1", {MODEL: "nobody/nothing"}, "warn", "are not known"),
    (ray_cluster.nodes, "r1", {"cluster": "2x8"}, "warn", "no Ray address is given, so 2 machines"),
    (storage.shared_folder, "r1", {"cluster": "2x8"}, "warn", "looks local to this machine; 2 machines write there"),
    (data_files.missing_values, "r1", {"data.val_files": "null"}, "fail", "data.val_files has no value"),
]


@pytest.mark.parametrize(("check", "name", "changed", "status", "said"), SETTINGS)
def test_a_setting_makes_its_check_speak(
    good: dict[str, str], check: preflight.Check, name: str, changed: dict[str, str], status: str, said: str
) -> None:
    del good["actor_rollout_ref.model.path"]  # the one of the configuration
    found = [finding for finding in check(config(good | changed, name)) if finding.status == status]
    assert any(re.search(said, f"{finding.check}: {finding.detail}") for finding in found), found
    assert all(finding.remedy for finding in found)
    untouched = [
        f for f in check(config(good, "r1")) if f.status == status and re.search(said, f"{f.check}: {f.detail}")
    ]
    assert not untouched  # the change it was


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=None)


def text_only_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}")


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no images here') }}")


def thinking_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "<think>\n")


def foreign_image_token(folder: Path) -> None:
    edit(folder / "config.json", image_token_id=10**6)


def half_a_folder(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def dropped_architecture(folder: Path) -> None:
    edit(folder / "config.json", architectures=["MllamaForConditionalGeneration"])


def endless_template(folder: Path) -> None:
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc")
    (folder / "chat_template.jinja").write_text(loops + "{% endfor %}" * 3)


def huge_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'a' * 99999999999 }}")


def unknown_architecture(folder: Path) -> None:
    edit(folder / "config.json", architectures=["NobodysForConditionalGeneration"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_template, "chat template: .* has none"),
        (text_only_template, r"writes <\|image_pad\|> 0 times for one image"),
        (broken_template, "cannot be rendered .*no images here"),
        (endless_template, "cannot be rendered .*not finished within 1 s"),
        (huge_template, "cannot be rendered .*MemoryError"),
        (dropped_architecture, "does not serve MllamaForConditionalGeneration; 0.10.2 was the last"),
        (thinking_template, "writes <think> itself"),
        (foreign_image_token, "no token with config.json's image_token_id"),
        (half_a_folder, "lacks tokenizer_config.json"),
        (unknown_architecture, "does not name NobodysForConditionalGeneration"),
    ],
)
def test_a_spoilt_model_folder_is_named(
    good: dict[str, str], spoil: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil is endless_template:
        monkeypatch.setattr(model_folder, "RENDER_SECONDS", 1)
    spoil(Path(good["actor_rollout_ref.model.path"]))
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(config(good))


def test_a_prefilled_think_is_fine_when_the_reward_knows(good: dict[str, str]) -> None:
    thinking_template(Path(good["actor_rollout_ref.model.path"]))
    preflight.check(config(good | {f"{KWARGS}.prefilled": "true"}))


SYSTEM = "<|im_start|>system\\nYou are an assistant.<|im_end|>\\n"

TEXT_TEMPLATE = (
    "{{- '" + SYSTEM + "' }}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def templates_of_mimo(folder: Path, *, with_images: bool) -> None:
    """MiMo-VL's kind: the tokenizer's template takes texts only, the processor's takes images and a system turn."""
    path = folder / "chat_template.jinja"
    image_template = "{{ '" + SYSTEM + "' }}" + path.read_text()
    path.unlink()
    edit(folder / "tokenizer_config.json", chat_template=TEXT_TEMPLATE)
    if with_images:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": image_template}))


def test_a_folder_with_two_templates_is_read_as_the_processor_reads_it(good: dict[str, str]) -> None:
    import PIL.Image

    from data_prep.lengths.meter import PromptMeter, real_length
    from data_prep.lengths.processor import load_processor

    folder = Path(good["actor_rollout_ref.model.path"])
    templates_of_mimo(folder, with_images=True)
    (found,) = model_folder.chat_template(config(good))
    assert (found.status, found.detail) == ("pass", "<|image_pad|> once for an image")
    processor, prompt = load_processor(str(folder)), "<image>Which response is better?"
    assert "You are an assistant." in PromptMeter(processor).rendered(prompt)
    (tokens,) = PromptMeter(processor).measure([prompt], [[(56, 56)]])
    assert tokens == real_length(processor, prompt, [PIL.Image.new("RGB", (56, 56))])


def test_a_template_for_texts_only_is_refused(good: dict[str, str]) -> None:
    templates_of_mimo(Path(good["actor_rollout_ref.model.path"]), with_images=False)
    (found,) = model_folder.chat_template(config(good))
    assert found.status == "fail"
    assert "cannot be rendered for a prompt with an image" in found.detail


def test_too_many_images_are_named(good: dict[str, str], tmp_path: Path) -> None:
    records = rows(32)
    records[4]["images"] = records[4]["images"] * 3
    records[4]["prompt"] = [{"role": "user", "content": "<image><image><image> Which?"}]
    good["data.train_files"] = str(write(tmp_path / "three.parquet", records))
    with pytest.raises(
        preflight.PreflightError, match=r"three\.parquet: a row has 3 images, the rollout engine takes 1"
    ):
        preflight.check(config(good))


def test_a_reward_that_does_not_fit_the_rows_is_named(good: dict[str, str], tmp_path: Path) -> None:
    records = [{**row, "data_source": "somewhere/else"} for row in rows(32)]
    good["data.train_files"] = str(write(tmp_path / "foreign.parquet", records))
    preflight.check(config(good))
    good["reward.custom_reward_function.path"] = "pkg://reward_fns.mixed"
    said = r"the gold answer of 32 of 32 rows earns less than 1, e\.g\. row 0 \(somewhere/else"
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(config(good))


def test_rows_that_another_reward_is_for_are_a_warning_when_some_are_paid(good: dict[str, str], tmp_path: Path) -> None:
    records = [{**row, "data_source": "somewhere/else"} for row in rows(8)] + rows(24)
    good["data.train_files"] = str(write(tmp_path / "some.parquet", records))
    good["reward.custom_reward_function.path"] = "pkg://reward_fns.mixed"
    (found,) = reward_function.gold(config(good))
    assert (found.status, "8 of 32 rows earns less than 1" in found.detail) == ("warn", True)


def test_a_hub_id_without_the_hub_is_named(good: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    del good["actor_rollout_ref.model.path"]
    given = config(good, "r1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert [finding.status for finding in model_folder.folder(given)] == ["pass"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = model_folder.folder(given)
    assert (found.status, "HF_HUB_OFFLINE=1" in found.detail) == ("fail", True)


def test_a_reward_that_raises_is_named(good: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own_reward.py"
    own.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1 / len('')\n"
    )
    good["reward.custom_reward_function.path"] = str(own)
    with pytest.raises(
        preflight.PreflightError, match=r"row 0: the reward raises on the gold answer .ZeroDivisionError"
    ):
        preflight.check(config(good))
    assert "loses the whole group" in next(reward_function.options(config(good))).detail


def test_an_option_that_a_foreign_reward_lacks_is_named(good: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own_reward.py"
    own.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, bonus=0):\n    return 1\n"
    )
    good["reward.custom_reward_function.path"] = str(own)
    preflight.check(config(good | {f"{KWARGS}.bonus": "1"}))
    with pytest.raises(preflight.PreflightError, match="no option bonuss; did you mean bonus"):
        preflight.check(config(good | {f"{KWARGS}.bonuss": "1"}))


@pytest.mark.parametrize(("free_gib", "status"), [(1000, "pass"), (300, "warn"), (100, "fail")])
def test_the_disk_has_room_for_checkpoints(
    good: dict[str, str], monkeypatch: pytest.MonkeyPatch, free_gib: int, status: str
) -> None:
    del good["actor_rollout_ref.model.path"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free_gib * 1024**3))
    (found,) = storage.checkpoints(config(good | {"trainer.total_training_steps": "1000"}, "r1"))
    assert found.status == status
    assert found.detail.startswith("5 checkpoint(s) of 108 GiB and the best model of 15.4 GiB = 556 GiB are kept")


def test_a_relative_folder_for_checkpoints_is_named(good: dict[str, str]) -> None:
    given = config(good)
    given.trainer.default_local_dir = "checkpoints"
    (found,) = storage.shared_folder(given)
    assert (found.status, "is relative" in found.detail) == ("fail", True)


def test_the_file_system_is_the_one_of_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nnas:/x /data nfs4 rw 0 0\ntmp /data/fast tmpfs rw 0 0\n")
    table = {"/home/me": "ext4", "/data/runs/r1": "nfs4", "/data/fast/r1": "tmpfs", "/database": "ext4"}
    assert {path: storage.file_system(Path(path), mounts) for path in table} == table


def node(name: str, gpus: float = 8, **versions: str) -> ray_cluster.Node:
    return ray_cluster.Node(name, gpus, {"verl": "0.9.1", **versions})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([node("a"), node("b")], None),
        ([node("a")], "2 machine.* with 8 GPU.* are asked for, 1 have them"),
        ([node("a"), node("b", 4)], r"1 have them \(a: 8, b: 4\)"),
        ([node("a"), node("b", verl="0.9.0")], "verl is 0.9.1 on a and 0.9.0 on b"),
        ([node("a"), node("b", torch="2.11.0")], "torch is none on a and 2.11.0 on b"),
    ],
)
def test_a_cluster_is_compared_with_the_configuration(
    good: dict[str, str], found: list[ray_cluster.Node], said: str | None
) -> None:
    failed = [
        f.detail for f in ray_cluster.compare(config(good | {"cluster": "2x8"}, "r1"), found) if f.status == "fail"
    ]
    assert bool(failed) == bool(said)
    assert said is None or re.search(said, failed[0])


def test_a_reward_model_needs_gpus_of_its_own_on_the_cluster(good: dict[str, str]) -> None:
    names = ("enable", "enable_resource_pool", "nnodes", "n_gpus_per_node")
    own = config(good | {f"reward.reward_model.{name}": "1" for name in names}, "r1")
    failed = [f.detail for f in ray_cluster.compare(own, [node("a")]) if f.status == "fail"]
    assert failed == ["the reward model asks for 1 GPU(s) of its own, and training leaves 0 (a: 8)"]
    assert not [f for f in ray_cluster.compare(own, [node("a"), node("b", 1)]) if f.status == "fail"]


def test_an_address_that_does_not_answer_is_named(good: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise ConnectionError(f"no Ray at {address}")

    monkeypatch.setattr(ray_cluster, "look", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    assert not list(ray_cluster.nodes(config(good))), "the CPU configurations start a Ray of their own"
    del good["actor_rollout_ref.model.path"]
    (found,) = ray_cluster.nodes(config(good, "r1"))
    assert (found.status, found.detail) == ("fail", "nowhere:6379 does not answer (no Ray at nowhere:6379)")


def test_a_real_cluster_is_looked_at() -> None:
    (found,) = ray_cluster.look("local")
    assert found.versions == provenance.versions()


def test_unmeasured_prompts_are_a_warning(good: dict[str, str]) -> None:
    found = list(data_files.prompt_length(config(good, "r1")))
    assert [(finding.status, "34 rows were never measured" in finding.detail) for finding in found] == [("warn", True)]


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    elsewhere = ("doctor.py", "software.py", "combinations.py", "resume.py", "policy_critic.py")
    every_refusal_was_made(request, *(path.name for path in SOURCES if path.name not in elsewhere))
