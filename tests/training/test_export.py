"""An export is the trained model, loads in plain transformers, and destroys nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from data_prep.files import folder_lock
from recipe.critic_r1.training import checkpoints, exported_model
from recipe.critic_r1.training.export import RECORD, ExportError, export
from tests.training.made_checkpoint import ALPHA, RANK, base_model, checkpoint

CRITIC = "val-core/critic/digits/acc/mean@1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best step is 10 and whose last is 20, and one of LoRA adapters beside it."""
    place = tmp_path_factory.mktemp("runs")
    for name, lora in (("run", False), ("lora", True)):
        folder = place / name
        for step, accuracy in ((10, 0.9), (20, 0.8)):
            checkpoint(folder / "checkpoints", step, lora=lora)
            checkpoints.keep_best(folder / "checkpoints", step, {CRITIC: accuracy})
        (folder / "train").mkdir()
        config = {
            "trainer": {"experiment_name": "r1"},
            "actor_rollout_ref": {"model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct"}, "rollout": {"n": 8}},
        }
        (folder / "train" / "config.yaml").write_text(yaml.safe_dump(config))
        lines = [json.dumps({"step": step, "data": {CRITIC: value}}) for step, value in ((10, 0.9), (20, 0.8))]
        (folder / "train" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return place


Exports = dict[tuple[str, str], Path]


@pytest.fixture(scope="module")
def exports(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Both checkpoints of both runs, exported; by run and ``which``."""
    place = tmp_path_factory.mktemp("exports")
    names = [(run, which) for run in ("run", "lora") for which in ("best", "last")]
    return {(run, which): export(trained / run, place / run / which, which=which) for run, which in names}


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("which", "step", "accuracy"), [("best", 10, "0.9000"), ("last", 20, "0.8000")])
def test_the_model_and_its_card(trained: Path, exports: Exports, which: str, step: int, accuracy: str) -> None:
    out = exports["run", which]
    source = weights(trained / "run" / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface")
    assert all(torch.equal(found, source[name]) for name, found in weights(out).items())
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config["text_config"]["dtype"]) == ("float32", "float32")
    assert "attn_implementation" not in (out / "config.json").read_text()
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    for said in (f"r1, step {step}", f"`{CRITIC}`: {accuracy}", "`actor_rollout_ref.rollout.n`: 8", "Weights: float32"):
        assert said in card
    assert not [path for path in out.iterdir() if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)]


def test_plain_transformers_loads_it(exports: Exports) -> None:
    """In a process that has nothing of ours imported."""
    script = """
import sys
from transformers import AutoModelForImageTextToText
for folder in sys.argv[1:]:
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    print("LOADED", model.dtype, sum(len(found) for found in info.values()), "recipe" in sys.modules)
"""
    folders = [str(exports[run, "last"]) for run in ("run", "lora")]
    done = subprocess.run([sys.executable, "-P", "-c", script, *folders], capture_output=True, text=True, check=False)
    assert done.stdout.count("LOADED torch.float32 0 False") == 2, done.stderr


@pytest.mark.parametrize("which", ["best", "last"])
def test_adapters_are_merged(exports: Exports, which: str) -> None:
    out = exports["lora", which]
    merged, base = weights(out), weights(base_model())
    assert merged.keys() == base.keys()
    changed = [name for name in base if not torch.equal(merged[name], base[name])]
    assert len(changed) == 4 * 7  # the linear layers of the decoder, and nothing of the vision tower
    assert not [name for name in changed if "visual" in name or "embed" in name]
    assert f"LoRA adapters of rank {RANK} and alpha {ALPHA} merged" in (out / "README.md").read_text()


def test_merging_is_the_formula() -> None:
    torch.manual_seed(0)
    base, a, b = torch.randn(6, 5), torch.randn(2, 5), torch.randn(6, 2)
    prefix = "base_model.model.model.q_proj"
    named = {f"{prefix}.base_layer.weight": base, f"{prefix}.lora_A.default.weight": a}
    found = exported_model.merged({**named, f"{prefix}.lora_B.default.weight": b}, rank=2, alpha=6)
    torch.testing.assert_close(found, {"model.q_proj.weight": base + 3 * b @ a})
    with pytest.raises(exported_model.WeightsError, match=r"adapter of model\.q_proj is incomplete"):
        exported_model.merged(dict(named), rank=2, alpha=6)
    with pytest.raises(exported_model.WeightsError, match="rank 2, the run's is 4"):
        exported_model.merged({**named, f"{prefix}.lora_B.default.weight": b}, rank=4, alpha=6)
    with pytest.raises(exported_model.WeightsError, match="a kind of adapter that is not merged"):
        exported_model.merged({f"{prefix}.lora_magnitude_vector.default.weight": a}, rank=2, alpha=6)


def huggingface(runs: Path, run: str = "run") -> Path:
    return runs / run / "checkpoints" / "global_step_20" / "actor" / "huggingface"


def edit(place: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = weights(place)
    change(tensors)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


NORM = "model.norm.weight"


def without(name: str) -> Callable[[Path], object]:
    return lambda place: (place / name).unlink()


def no_processor(place: Path) -> None:
    for name in ("tokenizer.json", "processor_config.json", "tokenizer_config.json"):
        (place / name).unlink()


def link_out(place: Path) -> None:
    secret = place.parents[4] / "secret"
    secret.write_text("of somebody else")
    (place / "notes.txt").symlink_to(secret)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("model.safetensors"), "holds no weights: train with hf_model"),
        (lambda place: edit(place, lambda tensors: tensors.pop(NORM)), r"with 1 missing keys, e\.g\. .*norm\.weight"),
        (
            lambda place: edit(place, lambda tensors: tensors.update({NORM: torch.zeros(3)})),
            r"with 1 mismatched keys, e\.g\. .*norm\.weight",
        ),
        (lambda place: os.truncate(place / "model.safetensors", 1000), r"model\.safetensors is damaged"),
        (no_processor, "the processor of the export does not load"),
        (without("config.json"), "config.json"),
        (link_out, r"notes\.txt is a symbolic link that leads out of"),
        (
            lambda place: (place.parents[2] / checkpoints.TRACKER).write_text("../../20"),
            r"holds '\.\./\.\./20' and not a step",
        ),
    ],
)
def test_a_spoilt_checkpoint_is_named_and_nothing_is_written(
    runs: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(huggingface(runs))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=said):
        export(runs / "run", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("meta", [None, "{}", '{"r": 0, "lora_alpha": 8}', '{"r": 8, "lora_alpha": 8}'])
def test_adapters_without_their_settings_are_refused(runs: Path, tmp_path: Path, meta: str | None) -> None:
    path = huggingface(runs, "lora").with_name("lora_train_meta.json")
    path.unlink()
    if meta is not None:
        path.write_text(meta)
    with pytest.raises(ExportError, match="rank"):
        export(runs / "lora", tmp_path / "out")


def test_a_wrong_merge_is_noticed(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exported_model.merged
    monkeypatch.setattr(exported_model, "merged", lambda tensors, rank, alpha: real(tensors, rank, 10 * alpha))
    with pytest.raises(ExportError, match="logits differ from the checkpoint's by"):
        export(runs / "lora", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_earlier_export_is_replaced_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    export(runs / "run", out, which="best", check=False)
    export(runs / "run", out, check=False)
    assert json.loads((out / RECORD).read_text())["step"] == 20
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(ExportError, match=r"holds 1 file\(s\) that no export wrote, e\.g\. thesis\.txt"):
        export(runs / "run", out)
    assert (out / "thesis.txt").read_text() == "precious"
    assert (out / "model.safetensors").exists()


def no_folder(out: Path) -> None:
    out.write_text("a file")


def link(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    out.symlink_to(out.parent / "elsewhere")


def foreign_model(out: Path) -> None:
    out.mkdir()
    (out / "model.safetensors").write_text("theirs")


def forged_record(out: Path) -> None:
    foreign_model(out)
    (out / RECORD).write_text("[]")


def foreign_scratch(out: Path) -> None:
    (out.parent / ".out.partial").mkdir()
    (out.parent / ".out.partial" / "mine").write_text("theirs")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_folder, "is not a folder"),
        (link, "is not a folder"),
        (foreign_model, "no export wrote"),
        (forged_record, "no export wrote"),
        (foreign_scratch, "is in the way and is not ours"),
    ],
)
def test_a_folder_that_is_not_ours_is_left_alone(
    trained: Path, tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ExportError, match=said):
        export(trained / "run", tmp_path / "out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_export_to_the_same_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / ".out.partial", "critic-r1 export"),
        pytest.raises(ExportError, match="critic-r1 export"),
    ):
        export(trained / "run", tmp_path / "out")


def test_what_a_killed_export_left_is_cleared(trained: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "model").mkdir(parents=True)
    (left / "model" / "half").write_text("x")
    (left / ".lock").touch()
    export(trained / "run", tmp_path / "out", check=False)
    assert not left.exists()


def test_a_machine_without_the_memory_says_so(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported_model, "bytes_needed", lambda *_: 10**15)
    with pytest.raises(ExportError, match=r"takes 1000000 GB of memory.*--no-check"):
        export(trained / "run", tmp_path / "out")
    out = export(trained / "run", tmp_path / "out", check=False)
    assert json.loads((out / RECORD).read_text())["compared"] is False


def test_a_step_that_is_not_there(runs: Path, tmp_path: Path) -> None:
    folder = runs / "run"
    with pytest.raises(ExportError, match="global_step_15 does not exist; present are global_step_10, global_step_20"):
        export(folder, tmp_path / "out", 15)
    (folder / "checkpoints" / "global_step_30").mkdir()
    with pytest.raises(ExportError, match="may be partial"):
        export(folder, tmp_path / "out", 30)
    checkpoints.forget_after(folder / "checkpoints", 0)
    with pytest.raises(ExportError, match=r"trainer.test_freq equal to trainer.save_freq, or export --which last"):
        export(folder, tmp_path / "out", which="best")
    with pytest.raises(ExportError, match="last or best"):
        export(folder, tmp_path / "out", which="first")


def test_bfloat16_weights_pass_the_comparison(runs: Path, tmp_path: Path) -> None:
    for place in (huggingface(runs), huggingface(runs, "lora")):
        edit(place, lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()}))
    for run in ("run", "lora"):
        out = export(runs / run, tmp_path / run)
        assert AutoModelForImageTextToText.from_pretrained(out).dtype == torch.bfloat16
