"""The model's folder, its chat template, and whether the rollout engine serves its architecture."""

import ast
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.model_shape import read_config

RENDER_SECONDS = 10
"""CPU seconds that a chat template may take for one short prompt."""

RENDER_BYTES = 4 * 1024**3
"""Address space of that process."""


def folder(config: DictConfig) -> Iterator[Finding]:
    """The model is a complete folder, or may be a Hub id."""
    name = "model.path"
    if config.actor_rollout_ref.model.path is None:
        return
    path = os.path.expanduser(str(config.actor_rollout_ref.model.path))
    if os.path.isdir(path):
        missing = [file for file in ("config.json", "tokenizer_config.json") if not os.path.exists(f"{path}/{file}")]
        if missing:
            yield Finding(name, "fail", f"{path} lacks {', '.join(missing)}", "Export the complete model folder.")
        else:
            yield Finding(name, "pass", path)
    elif os.path.isabs(path) or path.startswith(".") or path.count("/") != 1:
        remedy = "Give a Hugging Face model folder, or a Hub id ORG/NAME."
        yield Finding(name, "fail", f"{path} is not a folder", remedy)
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        yield Finding(name, "fail", f"{path} is not a folder, and HF_HUB_OFFLINE=1", "Give a local model folder.")
    else:
        yield Finding(name, "pass", f"{path} is treated as a Hub id")


def engine(config: DictConfig) -> Iterator[Finding]:
    """The rollout engine serves the model's architecture; read from vLLM's own table, without importing vLLM."""
    path = config.actor_rollout_ref.model.path
    read = None if path is None else read_config(str(path))
    if read is None or config.actor_rollout_ref.rollout.name != "vllm":
        return
    tables = vllm_tables()
    for name in read.get("architectures") or []:
        if name in tables.get("_PREVIOUSLY_SUPPORTED_MODELS", {}):
            last = tables["_PREVIOUSLY_SUPPORTED_MODELS"][name]
            yield Finding(
                "rollout engine",
                "fail",
                f"the installed vLLM does not serve {name}; {last} was the last version that did",
                "Choose another base, or an engine that serves it (actor_rollout_ref.rollout.name).",
            )
        elif tables and not any(name in table for table in tables.values()):
            yield Finding(
                "rollout engine",
                "fail",
                f"vLLM's list of architectures does not name {name}",
                "Check architectures in the model's config.json.",
            )


def vllm_tables() -> dict[str, dict[str, Any]]:
    """vLLM's tables of architectures by their name in its registry; empty when vLLM is not installed."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return {}
    source = Path(found.origin).parent / "model_executor" / "models" / "registry.py"
    if not source.exists():
        return {}
    tables: dict[str, dict[str, Any]] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict):
            tables[node.targets[0].id] = {
                str(key.value): value.value if isinstance(value, ast.Constant) else None
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if isinstance(key, ast.Constant)
            }
    return tables


def chat_template(config: DictConfig) -> Iterator[Finding]:
    """The template writes the model's image token once for an image, and does not open `<think>` unless expected."""
    path = config.actor_rollout_ref.model.path
    place = Path(os.path.expanduser(str(path))) if path is not None else None
    if place is None or not (place / "tokenizer_config.json").is_file():
        return  # reported by `folder`, or still on the Hub
    template = config.actor_rollout_ref.model.custom_chat_template or read_template(place)
    if template is None:
        remedy = "Use the instruction-tuned model, or give model.custom_chat_template."
        yield Finding("chat template", "fail", f"{place} has none", remedy)
        return
    options = OmegaConf.select(config, "data.apply_chat_template_kwargs") or {}
    try:
        text = render_bounded(template, OmegaConf.to_container(OmegaConf.create(options), resolve=True))  # type: ignore[arg-type]
    except Exception as error:
        yield Finding(
            "chat template",
            "fail",
            f"it cannot be rendered for a prompt with an image ({type(error).__name__}: {error})",
            "Check the template and data.apply_chat_template_kwargs.",
        )
        return
    token = image_token(place)
    if token is None:
        detail = f"{place}: the tokenizer has no token with config.json's image_token_id"
        yield Finding("image token", "fail", detail, "Export the model again.")
    elif text.count(token) != 1:
        yield Finding(
            "image token",
            "fail",
            f"the chat template writes {token} {text.count(token)} times for one image",
            "The image's features need exactly one: use the template that came with the model.",
        )
    else:
        yield Finding("chat template", "pass", f"{token} once for an image")
    prefilled = bool(OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs.prefilled"))
    if text.rstrip().endswith("<think>") and not prefilled:
        yield Finding(
            "chat template",
            "fail",
            "it writes <think> itself, so no response opens it and none is well-formed",
            "+reward.custom_reward_function.reward_kwargs.prefilled=true",
        )


def read_template(place: Path) -> str | None:
    """The chat template of a model folder, from the places that transformers reads."""
    if (place / "chat_template.jinja").is_file():
        return (place / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            found = json.loads((place / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError):
            continue
        if isinstance(found, str):
            return found
    return None


def render_bounded(template: str, options: dict[str, Any]) -> str:
    """`render` in a separate process with limits on time, memory and output.

    Raises:
        ValueError: the template failed or exceeded a limit.
    """
    code = "import json, sys; from recipe.critic_r1.preflight.model_folder import render; "
    code += "sys.stdout.write(render(**json.load(sys.stdin))[:1_000_000])"

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (RENDER_BYTES, RENDER_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (RENDER_SECONDS, RENDER_SECONDS))

    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps({"template": template, "options": options}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=3 * RENDER_SECONDS,
            preexec_fn=bound,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:
        raise ValueError(f"not finished within {RENDER_SECONDS} s")
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no output"])[-1][:300])
    return done.stdout


def render(template: str, options: dict[str, Any]) -> str:
    """A user turn with one image, and the start of the answer."""
    from datetime import datetime

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which response is better?"}]}
    return environment.from_string(template).render(messages=[turn], add_generation_prompt=True, **options)


def image_token(place: Path) -> str | None:
    """The image placeholder token; None when the tokenizer has no token with config.json's id."""
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        number = config.get("image_token_id", config.get("image_token_index"))
        for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
            if not (place / name).is_file():
                continue
            found = json.loads((place / name).read_text(encoding="utf-8")).get(key) or []
            if isinstance(found, dict):
                found = [{"id": int(index), **token} for index, token in found.items()]
            for token in found:
                if token["id"] == number:
                    return str(token["content"])
    except (OSError, ValueError, KeyError):
        return None
    return None
