"""The weights of a checkpoint's Hugging Face folder: adapters merged, and an export compared with what it came from.

A LoRA run's folder holds peft's names (``base_model.model.X.base_layer.weight``, ``X.lora_A.default.weight``, ...),
which transformers does not know: loaded as it is, every weight would be initialised at random, with a warning. So the
adapters are merged, W + (alpha / r) B A, computed in fp32.

An export is compared with the checkpoint before it counts: it is loaded by transformers, no parameter may be missing,
unexpected or of another shape, and the logits of a small prompt must be those of the checkpoint's own weights. Of a
LoRA run these come from peft's unmerged model, so that the merge itself is checked.
"""

import gc
import json
import re
from pathlib import Path
from typing import Any

import torch

DIFFERENCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference of the logits, by the type of the exported weights: far above rounding, far below what a
wrong or missing matrix does (about 1)."""

_ADAPTER = re.compile(r"(.+)\.lora_([AB])\.(?:[^.]+\.)?weight")
_PREFIX = "base_model.model."


class WeightsError(ValueError):
    """The weights of a folder are not what an export needs; the message says what is wrong."""


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder's safetensors files by name."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found |= load_file(file)
        except Exception as error:  # safetensors has one error for all damage, and it is not public
            raise WeightsError(f"{file} is damaged ({error}): export another step") from error
    return found


def names(folder: Path) -> set[str]:
    """The names of the tensors in the folder; no weight is read."""
    from safetensors import safe_open

    found: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= set(tensors.keys())
        except Exception as error:
            raise WeightsError(f"{file} is damaged ({error}): export another step") from error
    return found


def has_adapters(folder: Path) -> bool:
    """Whether the folder holds peft's names instead of the model's own."""
    return any(name.startswith(_PREFIX) or ".lora_" in name for name in names(folder))


def adapter_settings(folder: Path) -> tuple[int, int]:
    """Rank and alpha that verl recorded for the run, in ``lora_train_meta.json`` beside the folder."""
    path = folder.with_name("lora_train_meta.json")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(meta["r"]), int(meta["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} does not tell the adapters' rank and alpha ({error})") from error
    if rank < 1 or alpha < 1:
        raise WeightsError(f"{path} gives rank {rank} and alpha {alpha}: both must be positive")
    return rank, alpha


def merged(weights: dict[str, torch.Tensor], rank: int, alpha: int) -> dict[str, torch.Tensor]:
    """The model's own parameters, with the adapters of ``weights`` added to them; ``weights`` is emptied.

    Raises:
        WeightsError: an adapter without its base or its other half, or a kind of adapter that is not plain LoRA.
    """
    halves: dict[str, dict[str, torch.Tensor]] = {}
    found: dict[str, torch.Tensor] = {}
    for name in list(weights):
        tensor, short = weights.pop(name), name.removeprefix(_PREFIX)
        if match := _ADAPTER.fullmatch(short):
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif "lora_" in short or ".modules_to_save." in short or ".original_module." in short:
            raise WeightsError(f"{name} belongs to a kind of adapter that is not merged here")
        else:
            found[short.replace(".base_layer.", ".")] = tensor
    for module, half in halves.items():
        base = found.get(f"{module}.weight")
        if base is None or set(half) != {"A", "B"}:
            raise WeightsError(f"the adapter of {module} is incomplete")
        if half["A"].shape[0] != rank:
            raise WeightsError(f"the adapter of {module} has rank {half['A'].shape[0]}, the run's is {rank}")
        change = half["B"].float() @ half["A"].float() * (alpha / rank)
        found[f"{module}.weight"] = (base.float() + change).to(base.dtype)
    if not halves:
        raise WeightsError("there are no adapters to merge")
    return found


def save(weights: dict[str, torch.Tensor], config_folder: Path, out: Path) -> None:
    """Write ``weights``, by the names of the model in memory, as the model of ``config_folder``, to ``out``."""
    model = _model_class().from_config(_config(config_folder), dtype=next(iter(weights.values())).dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    tied = set(model.all_tied_weights_keys or ())
    if set(missing) - tied or unexpected:
        raise WeightsError(
            f"the weights are not those of the model that config.json describes: {len(missing)} missing, "
            f"{len(unexpected)} unexpected, e.g. {(missing + unexpected)[0]}"
        )
    model.tie_weights()
    model.save_pretrained(out)


def dtype_of(folder: Path) -> torch.dtype:
    """The type of the folder's weights: that of the first tensor, which is that of all in a checkpoint."""
    from safetensors import safe_open

    with safe_open(min(folder.glob("*.safetensors")), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(next(iter(file.keys())))
        return tensor.dtype


def compare(checkpoint: Path, exported: Path) -> float:
    """Load the export, and return the largest relative difference of its logits from the checkpoint's.

    Raises:
        WeightsError: a parameter is missing, unexpected or of another shape, the folder does not load, or the logits
            differ.
    """
    inputs = _probe(exported)
    with torch.inference_mode():
        expected = _reference(checkpoint, exported)(**inputs).logits.float()
        gc.collect()
        logits = _load(exported)(**inputs).logits.float()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    difference = float((logits - expected).abs().max() / scale)
    if not difference <= DIFFERENCE.get(dtype_of(exported), 1e-1):
        raise WeightsError(f"the export's logits differ from the checkpoint's by {difference:.2g} of the largest one")
    return difference


def _load(folder: Path, **options: Any) -> Any:
    """The folder's model, in the type of its weights, every parameter read from them."""
    try:
        model, info = _model_class().from_pretrained(
            folder,
            dtype=dtype_of(folder),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            **options,
        )
    except Exception as error:
        raise WeightsError(f"transformers does not load {folder} ({type(error).__name__}: {error})") from error
    wrong = [
        f"{len(found)} {kind.replace('_', ' ')}, e.g. {min(map(str, found))}" for kind, found in info.items() if found
    ]
    if wrong:
        raise WeightsError(f"transformers loads {folder} with {'; '.join(wrong)}: export another step")
    return model.eval()


def bytes_needed(checkpoint: Path, exported: Path) -> int:
    """Host memory that `compare` takes: one of the two models at a time."""
    return max(sum(file.stat().st_size for file in place.glob("*.safetensors")) for place in (checkpoint, exported))


def _reference(checkpoint: Path, exported: Path) -> Any:
    """The checkpoint's weights in the model that runs them: peft's for a LoRA run."""
    if not has_adapters(checkpoint):
        return _load(checkpoint, attn_implementation="sdpa")  # its config.json names the training's
    from peft import LoraConfig, get_peft_model

    weights, (rank, alpha) = read_weights(checkpoint), adapter_settings(checkpoint)
    adapted = [match[1] for name in weights if (match := _ADAPTER.fullmatch(name.removeprefix(_PREFIX)))]
    model = _model_class().from_config(_config(exported), dtype=dtype_of(checkpoint), attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(set(adapted))))
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or any("lora_" in name for name in missing):
        raise WeightsError(f"peft does not take the adapters: {len(missing)} missing, {len(unexpected)} unexpected")
    base: Any = model.get_base_model()
    base.tie_weights()
    return model.eval()


def _probe(folder: Path) -> dict[str, torch.Tensor]:
    """A short prompt with one image, through the folder's own processor; text alone where there is none."""
    from PIL import Image
    from transformers import AutoProcessor, AutoTokenizer

    text = "Which response is better?"
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        token = getattr(processor, "image_token", None)
        if token is None:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return dict(tokenizer(text, return_tensors="pt"))
        image = Image.effect_noise((112, 84), 60).convert("RGB")
        return dict(processor(text=[f"{token}{text}"], images=[image], return_tensors="pt"))
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"the processor of the export does not load ({type(error).__name__}: {error})") from error


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _model_class() -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText
