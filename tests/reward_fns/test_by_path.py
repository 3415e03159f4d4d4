"""The rewards where they are used: by path, by package, in threads, pickled, spawned, and by verl's own loaders."""

import asyncio
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reward_fns import answer, mixed, nway, pointwise, preference

FOLDER = Path(preference.__file__).parent
FILES = ["preference.py", "pointwise.py", "nway.py", "answer.py", "policy.py", "mixed.py"]
ROW: dict[str, Any] = {
    "data_source": "critic/x",
    "solution_str": "<think>A reason.</think>\\boxed{2}",
    "ground_truth": "2",
}

ALONE = """
import importlib.util, json, sys, time
start = time.process_time()
spec = importlib.util.spec_from_file_location("custom_module_1", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seconds = time.process_time() - start
heavy = {"numpy", "torch", "pandas", "verl", "sympy", "ray", "reward_fns"} & set(sys.modules)
print(json.dumps([module.compute_score(*json.loads(sys.argv[2]))["score"], sorted(heavy), seconds < 0.5]))
"""


@pytest.mark.parametrize("name", FILES)
def test_alone_where_the_package_cannot_be_imported(name: str, tmp_path: Path) -> None:
    """-S leaves out site-packages, so neither reward_fns nor any library can be imported."""
    shutil.copytree(FOLDER, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    row = '["critic/x", "<think>A reason.</think>\\\\boxed{2}", "2"]'
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, str(tmp_path / "copied" / name), row],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[1.0, [], true]", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    ["pkg://reward_fns.preference", "pkg://reward_fns/mixed", f"{FOLDER}/preference.py", f"file://{FOLDER}/mixed.py"],
)
def test_verls_own_loader(place: str) -> None:
    from verl.utils.import_utils import load_extern_object

    assert load_extern_object(module_path=place, object_name="compute_score")(**ROW)["score"] == 1.0


@pytest.mark.slow
def test_rewards_loaded_by_path_travel_to_a_ray_worker_that_lacks_the_files(tmp_path: Path) -> None:
    """verl's remote manager sends the function to another process; Ray pickles it with cloudpickle."""
    from ray import cloudpickle
    from verl.utils.import_utils import load_extern_object

    rewards = [load_extern_object(module_path=str(FOLDER / name), object_name="compute_score") for name in FILES]
    sent = tmp_path / "rewards.pkl"
    sent.write_bytes(cloudpickle.dumps([partial(reward, format_weight=0.2) for reward in rewards]))
    code = (
        "import sys; sys.modules['reward_fns'] = None\n"
        "import ray.cloudpickle as cp\n"
        f"print([reward(**{ROW!r})['score'] for reward in cp.load(open({str(sent)!r}, 'rb'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == str([1.0] * len(FILES)), done.stderr


@pytest.mark.parametrize("module", [preference, pointwise, nway, answer, mixed], ids=lambda module: module.__name__)
def test_pickling(module: ModuleType) -> None:
    copy = pickle.loads(pickle.dumps(partial(module.compute_score, format_weight=0.2)))
    assert copy(**ROW) == module.compute_score(**ROW, format_weight=0.2)


def test_threads() -> None:
    texts = [f"<think>{i}</think>\\boxed{{{i % 3}}}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda text: mixed.compute_score("critic/x", text, "1"), texts))
    assert results == [mixed.compute_score("critic/x", text, "1") for text in texts]


@pytest.mark.slow
def test_spawn() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(partial(preference.compute_score, **ROW)).result(timeout=120)["score"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["naive", "dapo"])
@pytest.mark.parametrize("place", ["pkg://reward_fns.preference", str(FOLDER / "preference.py")])
def test_verls_reward_managers(manager: str, place: str) -> None:
    """verl's own construction (`load_reward_manager`) and its own call, on one decoded sample."""
    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    class Tokenizer:
        pad_token_id, eos_token_id = 0, 0

        def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
            return "".join(chr(int(i)) for i in ids)

    ids = torch.tensor([[ord(character) for character in ROW["solution_str"]]])
    data = DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
        non_tensors={
            "data_source": np.array(["critic/x"], dtype=object),
            "reward_model": np.array([{"style": "rule", "ground_truth": "2"}], dtype=object),
            "extra_info": np.array([{"index": 0}], dtype=object),
        },
    )
    config = OmegaConf.create(
        {
            "reward": {
                "num_workers": 1,
                "custom_reward_function": {
                    "path": place, "name": "compute_score", "reward_kwargs": {"format_weight": 0.2}
                },
                "reward_manager": {"source": "register", "name": manager},
            }
        }
    )  # fmt: skip

    async def run() -> Any:
        loaded = load_reward_manager(
            config, Tokenizer(), reward_router_address="127.0.0.1:1", reward_model_tokenizer=None
        )
        return await loaded.run_single(data)

    result = asyncio.run(run())
    assert result["reward_score"] == 1.0
    assert result["reward_extra_info"]["reason"] == "ok"
