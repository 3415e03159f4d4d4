"""verl, our server and vLLM in one process: vLLM takes half a minute to import, so it is imported once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.config.test_configs import composed
from tests.images.test_pixels import IMAGES


@pytest.fixture(scope="module")
def found(tiny_model: Path) -> dict[str, Any]:
    config = composed("r1")
    question = {
        "mm_processor_kwargs": OmegaConf.to_container(config.data.mm_processor_kwargs),
        "engine_kwargs": OmegaConf.to_container(config.actor_rollout_ref.rollout.engine_kwargs.vllm, resolve=True),
        "model": str(tiny_model),
        "sizes": [size for size, _ in IMAGES],
        "image_token_id": json.loads((tiny_model / "config.json").read_text())["image_token_id"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.vllm_process"],
        input=json.dumps(question),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "VERL_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "All configuration checks passed" in done.stdout
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_our_server_is_written_against_this_verl(found: dict[str, Any]) -> None:
    assert found["server"]


def test_verl_accepts_adapters(found: dict[str, Any]) -> None:
    assert found["adapters"]


def test_vllm_counts_the_image_tokens_that_training_counts(found: dict[str, Any]) -> None:
    assert found["tokens"] == [tokens for _, tokens in IMAGES for _ in range(2)]
