"""The sizes of a Qwen2.5-VL or Qwen3-VL, from its config.json."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.critic_r1.rehearsal.architectures import published


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, and what follows from them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    vision: dict[str, Any]
    family: str

    @classmethod
    def of(cls, config: DictConfig) -> "ModelShape | None":
        """The shape of a run's model; None when its sizes are not known or it is of another family."""
        path = config.actor_rollout_ref.model.path
        read = None if path is None else read_config(str(path))
        return None if read is None else cls.from_config(read)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ModelShape | None":
        """The shape in a parsed config.json; None for another family or a file without sizes."""
        text, family = config.get("text_config") or config, str(config.get("model_type", ""))
        if family not in ("qwen2_5_vl", "qwen3_vl") or "hidden_size" not in text or "vision_config" not in config:
            return None
        return cls(
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            vision=dict(config["vision_config"]),
            family=family,
        )

    @property
    def embedding_parameters(self) -> int:
        """Input embedding, and the output layer unless the two are tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """One decoder layer."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * query + 2 * self.hidden * key_value
        # Qwen2.5 has biases on query, key and value; Qwen3 normalises each head of query and key instead.
        attention += query + 2 * key_value if self.family == "qwen2_5_vl" else 2 * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def merger_parameters(self) -> int:
        """The two linear layers between vision tower and decoder."""
        merged = self.vision["hidden_size"] * self.vision.get("spatial_merge_size", 2) ** 2
        out = self.vision["out_hidden_size"]
        return int(merged * merged + merged + merged * out + out)

    @property
    def vision_parameters(self) -> int:
        """Patch embedding, blocks and mergers of the vision tower."""
        v = self.vision
        wide, inner = v["hidden_size"], v["intermediate_size"]
        patch = v.get("in_channels", 3) * v.get("temporal_patch_size", 2) * v.get("patch_size", 14) ** 2
        merged = wide * v.get("spatial_merge_size", 2) ** 2
        attention = 4 * wide * wide + 4 * wide
        if self.family == "qwen2_5_vl":
            block = attention + 3 * wide * inner + 2 * inner + wide + 2 * wide
            return int(patch * wide + v["depth"] * block + wide + self.merger_parameters)
        block = attention + 2 * wide * inner + inner + wide + 4 * wide
        deep = len(v.get("deepstack_visual_indexes", ())) * (2 * merged + self.merger_parameters)
        positions = v.get("num_position_embeddings", 0) * wide
        return int(patch * wide + wide + positions + v["depth"] * block + 2 * wide + self.merger_parameters + deep)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden + self.vision_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token in the rollout engine's KV cache (bf16), over all its GPUs."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


def read_config(path: str) -> dict[str, Any] | None:
    """The config.json of a model folder, of a model in the Hub's cache, or of one that ships with this package."""
    folder = Path(os.path.expanduser(path))
    file: Any = folder / "config.json"
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        try:
            file = try_to_load_from_cache(path, "config.json")
        except ValueError:  # not an id of the Hub
            file = None
        if not isinstance(file, str):
            return published(path)
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of LoRA adapters of this rank on all linear layers of the decoder."""
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = 2 * (shape.hidden + query) + 2 * (shape.hidden + key_value) + 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * sides
