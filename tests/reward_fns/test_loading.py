"""The rewards in the places where others will use them: by path, by package, in threads, pickled, spawned, in TRL."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from ray import cloudpickle

from reward_fns import answer, mixed, nway, pointwise, preference

ROOM = Path(preference.__file__).parent
FILES = ["preference.py", "pointwise.py", "nway.py", "answer.py", "policy.py", "mixed.py"]
ROW = {"data_source": "critic/x", "solution_str": "<think>A reason.</think>\\boxed{2}", "ground_truth": "2"}

ALONE = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("custom_module_1", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
heavy = {"numpy", "torch", "pandas", "verl", "sympy", "ray", "reward_fns"} & set(sys.modules)
print(json.dumps([module.compute_score(*json.loads(sys.argv[2])), sorted(heavy)]))
"""


@pytest.mark.parametrize("name", FILES)
def test_by_path_where_the_package_cannot_be_imported(name, tmp_path):
    """-S leaves out site-packages, so neither reward_fns nor any library is there."""
    shutil.copytree(ROOM, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    row = '["critic/x", "<think>A reason.</think>\\\\boxed{2}", "2"]'
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, str(tmp_path / "copied" / name), row],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"score": 1.0' in done.stdout
    assert done.stdout.strip().endswith("[]]")


@pytest.mark.parametrize("place", ["pkg://reward_fns.preference", "pkg://reward_fns/mixed", str(ROOM / "preference.py"),
                                   "file://" + str(ROOM / "mixed.py")])  # fmt: skip
def test_verls_own_loader(place):
    from verl.utils.import_utils import load_extern_object

    assert load_extern_object(module_path=place, object_name="compute_score")(**ROW)["score"] == 1.0


@pytest.mark.parametrize("name", FILES)
def test_a_reward_loaded_by_path_travels_to_a_ray_worker_that_lacks_the_files(name, tmp_path):
    """verl's remote manager sends the function to another process; Ray pickles it with cloudpickle."""
    from verl.utils.import_utils import load_extern_object

    reward = load_extern_object(module_path=str(ROOM / name), object_name="compute_score")
    sent = tmp_path / "reward.pkl"
    sent.write_bytes(cloudpickle.dumps(partial(reward, format_weight=0.2)))
    code = (
        "import sys, pickle; sys.modules['reward_fns'] = None\n"
        "import ray.cloudpickle as cp\n"
        f"print(cp.load(open({str(sent)!r}, 'rb'))(**{ROW!r})['score'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "1.0", done.stderr


@pytest.mark.parametrize("module", [preference, pointwise, nway, answer, mixed], ids=lambda module: module.__name__)
def test_pickling(module):
    copy = pickle.loads(pickle.dumps(partial(module.compute_score, format_weight=0.2)))
    assert copy(**ROW) == module.compute_score(**ROW, format_weight=0.2)


def test_threads():
    texts = [f"<think>{i}</think>\\boxed{{{i % 3}}}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda text: mixed.compute_score("critic/x", text, "1"), texts))
    assert results == [mixed.compute_score("critic/x", text, "1") for text in texts]


def test_spawn():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(preference.compute_score, **ROW).result(timeout=120)["score"] == 1.0


@pytest.mark.parametrize("manager", ["naive", "dapo"])
@pytest.mark.parametrize("place", ["pkg://reward_fns.preference", str(ROOM / "preference.py")])
def test_verls_reward_managers(manager, place):
    """verl's own construction (`load_reward_manager`) and its own call, on one decoded sample."""
    import asyncio

    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    class Tokenizer:
        pad_token_id, eos_token_id = 0, 0

        def decode(self, ids, skip_special_tokens=True):
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

    async def run():
        loaded = load_reward_manager(
            config, Tokenizer(), reward_router_address="127.0.0.1:1", reward_model_tokenizer=None
        )
        return await loaded.run_single(data)

    result = asyncio.run(run())
    assert result["reward_score"] == 1.0
    assert result["reward_extra_info"]["reason"] == "ok"


def test_the_adapter_for_trl():
    """The lines of docs/rewards.md, called as TRL's GRPOTrainer calls a reward: keywords, lists, extra columns."""

    def preference_reward(completions, ground_truth, **columns):
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        pairs = zip(texts, ground_truth, strict=True)
        return [preference.compute_score("trl", text, truth)["score"] for text, truth in pairs]

    chat = [[{"role": "assistant", "content": ROW["solution_str"]}], [{"role": "assistant", "content": "hm"}]]
    shared = {"prompts": ["p", "p"], "completion_ids": [[1], [2]], "trainer_state": None, "ground_truth": ["2", "2"]}
    assert preference_reward(completions=chat, **shared) == [1.0, 0.0]
    assert preference_reward(completions=[turns[0]["content"] for turns in chat], **shared) == [1.0, 0.0]
