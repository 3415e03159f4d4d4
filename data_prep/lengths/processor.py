"""Reads and checks the facts about a model's processor in a separate process.

transformers and torch take half a gigabyte of memory that the rest of a conversion does not need; the process that
loads them exits after writing the facts.

    python -m data_prep.lengths.processor MODEL OUTPUT [--min-pixels N] [--max-pixels N]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from data_prep.lengths.meter import MeterError, ProcessorFacts, PromptMeter


def load_processor(model: str, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """The processor of a model folder or Hub id; pixel limits as in the training configuration."""
    from transformers import AutoProcessor

    limits = {k: v for k, v in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if v is not None}
    return AutoProcessor.from_pretrained(model, **limits)


@lru_cache(maxsize=4)
def facts_of_model(model: str, min_pixels: int | None = None, max_pixels: int | None = None) -> ProcessorFacts:
    """The facts about a model's processor, checked against the processor.

    Raises:
        MeterError: the processor cannot be loaded, is of another family, or does not agree with its rule.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "facts.json")
        command = [sys.executable, "-m", "data_prep.lengths.processor", model, str(output)]
        for option, value in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels)):
            command += [option, str(value)] if value is not None else []
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise MeterError(f"the processor of {model} cannot be used: {said}")
        return ProcessorFacts.from_json(output.read_text(encoding="utf-8"))


def meter_of_model(model: str, min_pixels: int | None = None, max_pixels: int | None = None) -> PromptMeter:
    """The meter of a model folder or Hub id; pixel limits as in the training configuration.

    Raises:
        MeterError: see `facts_of_model`.
    """
    facts = facts_of_model(model, min_pixels, max_pixels)
    return PromptMeter.from_facts(facts, partial(load_processor, model, min_pixels, max_pixels))


def main() -> None:
    """Write the facts about one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--min-pixels", type=int)
    parser.add_argument("--max-pixels", type=int)
    a = parser.parse_args()
    try:
        meter = PromptMeter(load_processor(a.model, a.min_pixels, a.max_pixels))
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
    a.output.write_text(meter.facts.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
