"""One good record for each source, in the shape in which its authors publish it."""

import json
from collections.abc import Callable
from typing import Any

from data_prep.sources.record import Options
from data_prep.sources.registry import load_source
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import PreferencePair, Preferred
from tests.data_prep.made_images import make_image

Record = dict[str, Any]


def image(n: int) -> dict[str, Any]:
    return {"bytes": make_image(n), "path": f"{n}.jpg"}


def bracketed(n: int, names: tuple[str, str] = ("The first response", "The second response")) -> str:
    return (
        f"You judge fairly.\nQuestion: [What is in image {n}?]\n{names[0]}: [A dog [brown], number {n}.]\n"
        f"{names[1]}: [A cat, number {n}.]\nASSISTANT:\n"
    )


def headed(n: int) -> str:
    return (
        f"Compare.\n###### **Input:**  \n###### [Question]:\nWhat is in image {n}?  \n\n"
        f"###### [Response 1]:\nA dog {n}.  \n\n###### [Response 2]:\nA cat {n}.  \n\n"
        "###### **Output Format (strictly follow):**  \n<think>..</think><answer>1/2</answer>"
    )


def ratings(*values: str) -> str:
    names = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return json.dumps({n: {"Rating": v, "Rationale": "because"} for n, v in zip(names, values, strict=True)})


def chosen(n: int) -> Record:
    return {"question": f"What is in image {n}?", "chosen": f"A dog {n}.", "rejected": f"A cat {n}."}


GOOD: dict[str, Callable[[int], Record]] = {
    "llava_critic_grpo": lambda n: {"question": "<image>\n" + bracketed(n), "answer": "2", "image": image(n)},
    "llava_critic_113k": lambda n: {
        "id": f"p{n}",
        "source": "rlhf",
        "conversations": [
            {"from": "human", "value": "<image>\n" + bracketed(n)},
            {"from": "gpt", "value": "The better response: [first]. It sees the dog."},
        ],
        "image": image(n),
    },
    "vlfeedback": lambda n: {
        "id": f"v{n}",
        "prompt": f"What is in image {n}?",
        "img_path": f"{n}.jpg",
        "models": ["a", "b"],
        "completions": {
            "annotations": [ratings("5", "5", "5"), ratings("2", "3", "5")],
            "model": ["a", "b"],
            "response": [f"A dog {n}.", f"A cat {n}."],
        },
    },
    "rlhf_v": lambda n: {"image": image(n), "text": json.dumps(chosen(n)), "idx": n, "ds_name": "RLHF-V"},
    "rlaif_v": lambda n: {**chosen(n), "image": image(n), "idx": n, "ds_name": "x", "origin_split": "{}"},
    "llava_human_preference": lambda n: {
        "id": n,
        "image": f"{n}.jpg",
        "conversations": [
            {"from": "human", "value": f"Hello {n}\n<image>"},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "What is it?"},
            {"from": "gpt", "value": "<slot>"},
        ],
        "output_1": {"from": "llava", "value": f"A dog {n}."},
        "output_2": {"from": "llava", "value": f"A cat {n}."},
        "preference": 2,
    },
    "mm_rlhf": lambda n: {
        "image": f"{n}.jpg",
        "prompt": f"What is in image {n}?",
        "chosen": f"A dog {n}.",
        "rejected": f"A cat {n}.",
        "chosen_reason": "right",
    },
    "mm_rlhf_rewardbench": lambda n: {
        "id": n // 2,
        "image": f"mcq/{n}.jpg",
        "prompt": f"What is in image {n}?",
        "chosen": f"A dog {n}.",
        "rejected": f"A cat {n}.",
    },
    "vl_rewardbench": lambda n: {
        "id": f"RLAIF-V-{n}",
        "query": f"What is in image {n}?",
        "response": [f"A dog {n}.", f"A cat {n}."],
        "image": image(n),
        "human_ranking": [1, 0],
    },
    "multimodal_rewardbench": lambda n: {
        "ID": f"math_{n}",
        "Text": f"What is in image {n}?",
        "Image": f"{n}.jpg",
        "Output1": f"A dog {n}.",
        "Output2": f"A cat {n}.",
        "Better": "Output1",
        "Category": "reasoning",
    },
    "multimodal_rewardbench_2": lambda n: {
        "pair_id": f"muirbench_{n}",
        "prompt_text": f"What is in image {n}?",
        "prompt_images": [f"{n}.jpg"],
        "response_a_text": f"A dog {n}.",
        "response_a_images": [],
        "response_b_text": f"A cat {n}.",
        "response_b_images": [],
        "chosen": "B",
        "prompt_source": "muirbench",
    },
    "mllm_judge": lambda n: {
        "id": n,
        "pair_id": n,
        "image_path": f"{n}.jpg",
        "original_dataset": "coco",
        "instruction": f"What is in image {n}?",
        "answer1": {"name": "cogvlm", "answer": f"A dog {n}."},
        "answer2": {"name": "gemini", "answer": f" A cat {n}."},
        "human_answer": "A",
    },
    "r1_reward": lambda n: {
        "message": json.dumps(
            [{"role": "user", "content": [{"type": "image", "image": f"{n}.jpg"}, {"type": "text", "text": headed(n)}]}]
        ),
        "question": headed(n),
        "answer": ["<answer>2</answer>"],
    },
    "omni_preference": lambda n: {
        "images": [f"{n}.jpg"],
        "messages": [{"role": "user", "content": "<image>" + headed(n)}],
        "solution": json.dumps({"score_A": 3, "score_B": 3, "better": "equal"}),
    },
    "spa_vl": lambda n: {**chosen(n), "image": image(n)},
    "sharegpt_ranking": lambda n: {
        "conversations": [{"from": "human", "value": f"<image>What is in image {n}?"}],
        "chosen": {"from": "gpt", "value": f"A dog {n}."},
        "rejected": {"from": "gpt", "value": f"A cat {n}."},
        "images": [f"{n}.jpg"],
    },
    "generic": lambda n: {
        "prompt": f"What is in image {n}?",
        "responses": [f"A dog {n}.", f"A cat {n}.", f"A cow {n}."],
        "rankings": [1, 2, 2],
        "image": f"{n}.jpg",
    },
}
"""Source -> a good record number n. File names lie in the folder that `write_images` fills."""

EXPECTED: dict[str, list[Preferred]] = {
    "llava_critic_grpo": [1],
    "llava_critic_113k": [0],
    "vlfeedback": [0],
    "rlhf_v": [0],
    "rlaif_v": [0],
    "llava_human_preference": [1],
    "mm_rlhf": [0],
    "mm_rlhf_rewardbench": [0],
    "vl_rewardbench": [1],
    "multimodal_rewardbench": [0],
    "multimodal_rewardbench_2": [1],
    "mllm_judge": [0],
    "r1_reward": [1],
    "omni_preference": ["tie"],
    "spa_vl": [0],
    "sharegpt_ranking": [0],
    "generic": [0, 0, "tie"],
}
"""Which response of each pair is the better one."""

EMBEDDED = ("llava_critic_grpo", "llava_critic_113k", "rlhf_v", "rlaif_v", "vl_rewardbench", "spa_vl")
"""Sources that are Parquet files with the images inside."""


def pairs_of(name: str, record: Record) -> list[PreferencePair]:
    """The pairs of a record, of which the source makes nothing else."""
    pairs = []
    for item in load_source(name).convert(record, Options()):
        for pair in item.pairs() if isinstance(item, RankedResponses) else [item]:
            assert isinstance(pair, PreferencePair)
            pairs.append(pair)
    return pairs
