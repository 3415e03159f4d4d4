"""All sources by name, and how to bring one's own.

The sources are imported on request, so that naming one does not load the others.
"""

import importlib
import importlib.util
from pathlib import Path

from data_prep.sources.record import Source

NAMES = (
    "llava_critic_grpo",
    "llava_critic_113k",
    "vlfeedback",
    "rlhf_v",
    "rlaif_v",
    "llava_human_preference",
    "mm_rlhf",
    "mm_rlhf_rewardbench",
    "vl_rewardbench",
    "multimodal_rewardbench",
    "multimodal_rewardbench_2",
    "mllm_judge",
    "videorewardbench",
    "r1_reward",
    "omni_preference",
    "spa_vl",
    "sharegpt_ranking",
    "mmpr",
    "unified_reward",
    "omni_rewardbench",
    "perception_collection",
    "editreward",
    "editreward_bench",
    "genai_bench",
    "hpdv2",
    "hpdv3",
    "mj_bench",
    "pick_a_pic",
    "helpsteer3",
    "text_preference",
    "ultrafeedback",
    "generic",
)
"""The sources that come with the package, in the order of `prepare --list`."""


def load_source(name: str) -> Source:
    """The source called `name`; or, for `FILE.py:FUNCTION`, one made of that function.

    A function of one's own takes a record (a dict) and `Options`, and yields `PreferencePair`s.

    Raises:
        ValueError: there is no such source, file or function.
    """
    if name in NAMES:
        source: Source = importlib.import_module(f"data_prep.sources.{name}").SOURCE
        return source
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _own_source(Path(path), function)
    raise ValueError(
        f"there is no source '{name}'; choose one of {', '.join(NAMES)}, or give your own as FILE.py:FUNCTION"
    )


def _own_source(path: Path, function: str) -> Source:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a source of your own is given as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(f"own_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file may raise anything
        raise ValueError(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
    convert = getattr(module, function, None)
    if not callable(convert):
        raise ValueError(f"{path}: there is no function '{function}' in it")
    return Source(path.stem, f"{path.name}:{function}", convert, "yours to state", "any", "your function", own=True)
