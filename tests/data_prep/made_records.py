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


def made(n: int) -> tuple[str, str]:
    """Names of two images that were made for a request."""
    return f"{n}.jpg", f"{(n + 1) % 8}.jpg"


def talk(n: int, answer: str) -> list[Record]:
    return [{"role": "user", "content": f"What is in image {n}?"}, {"role": "assistant", "content": f"A {answer} {n}."}]


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
    "videorewardbench": lambda n: {  # with frames that were taken beforehand
        **chosen(n),
        "id": n,
        "images": [f"{n}.jpg"],
        "category": "Short-form Perception",
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
    "mmpr": lambda n: {"id": n, "image": f"{n}.jpg", **chosen(n), "question": f"<image>\nWhat is in image {n}?"},
    "unified_reward": lambda n: {
        "problem": "Compare.\nAnswer 1: 9+8=17\nYour task is provided as follows:\n"
        f"Question: [What is in image {n}?]\nAnswer 1: [A dog {n}.]\nAnswer 2: [A cat {n}.]",
        "solution": "Answer 2 is better",
        "images": [f"{n}.jpg"],
    },
    "omni_rewardbench": lambda n: {
        "id": n,
        "prompt": f"What is in image {n}?",
        "image": f"{n}.jpg",
        "response1": f"A dog {n}.",
        "response2": f"A cat {n}.",
        "criteria": "Being right.",
        "criteria_preference": "response2",
        "model1": "a",
        "model2": "b",
        "source": "x",
    },
    "perception_collection": lambda n: {
        "image": f"{n}.jpg",
        "instruction": "###Task Description: ...",
        "output": "It sees most of it. [RESULT] 4",
        "orig_instruction": f"What is in image {n}?",
        "orig_response": f"A dog {n}.",
        "orig_reference_answer": "A brown dog.",
        "orig_criteria": "Does it see the animal?",
        **{f"orig_score{level}_description": f"It sees {level} of 5." for level in range(1, 6)},
        "orig_score": "4",
    },
    "editreward": lambda n: {
        "unique_key": f"k{n}",
        "instruction": f"What is in image {n}?",
        "source_img": image((n + 2) % 8),
        "left_output_image": image(n),
        "right_output_image": image((n + 1) % 8),
        "left_overall_score": 5.0,
        "right_overall_score": 6.5,
        "vote_type": "x",
    },
    "editreward_bench": lambda n: {
        "id": f"g{n // 2}_{n}",
        "dataset": "3pair",
        "instruction": f"What is in image {n}?",
        "source_image": image((n + 2) % 8),
        "candidate_1": image(n),
        "candidate_2": image((n + 1) % 8),
        "ranking": "C>A",
        "comparison_type": "AvsC",
        "score_1": 3.0,
        "score_2": 4.0,
        "model_1": "a",
        "model_2": "b",
    },
    "genai_bench": lambda n: {
        "prompt": f"What is in image {n}?",
        "left_model": "a",
        "left_image": image(n),
        "right_model": "b",
        "right_image": image((n + 1) % 8),
        "vote_type": "rightvote",
    },
    "hpdv2": lambda n: {"prompt": f"What is in image {n}?", "file_path": list(made(n)), "human_preference": [0, 1]},
    "hpdv3": lambda n: {
        "prompt": f"What is in image {n}?",
        "choice_dist": [9, 3],
        "confidence": 0.9,
        "path1": made(n)[0],
        "path2": made(n)[1],
        "model1": "a",
        "model2": "b",
    },
    "mj_bench": lambda n: {
        "caption": f"What is in image {n}?",
        "image0": image(n),
        "image1": image((n + 1) % 8),
        "label": 0,
        "category": "quality",
    },
    "pick_a_pic": lambda n: {
        "ranking_id": n,
        "caption": f"What is in image {n}?",
        "jpg_0": image(n),
        "jpg_1": image((n + 1) % 8),
        "label_0": 1.0,
        "label_1": 0.0,
        "has_label": True,
    },
    "helpsteer3": lambda n: {
        "domain": "general",
        "language": "english",
        "context": [{"role": "user", "content": f"What is in image {n}?"}],
        "response1": f"A dog {n}.",
        "response2": f"A cat {n}.",
        "overall_preference": -2,
        "individual_preference": [{"score": -2, "reasoning": "x"}],
    },
    "text_preference": lambda n: {
        "prompt": f"What is in image {n}?",
        "prompt_id": f"p{n}",
        "chosen": talk(n, "dog"),
        "rejected": talk(n, "cat"),
        "messages": talk(n, "dog"),
        "score_chosen": 8.5,
        "score_rejected": 8.0,
    },
    "ultrafeedback": lambda n: {
        "source": "x",
        "instruction": f"What is in image {n}?",
        "models": ["a", "b"],
        "completions": [
            {"model": "a", "response": f"A dog {n}.", "overall_score": 6.5},
            {"model": "b", "response": f"A cat {n}.", "overall_score": 8},
        ],
    },
    "generic": lambda n: {
        "prompt": f"What is in image {n}?",
        "responses": [f"A dog {n}.", f"A cat {n}.", f"A cow {n}."],
        "rankings": [1, 2, 2],
        "image": f"{n}.jpg",
    },
}
"""Source -> a good record number n. File names lie in the folder that `write_images` fills."""

EXPECTED: dict[str, list[Preferred | float]] = {
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
    "videorewardbench": [0],
    "r1_reward": [1],
    "omni_preference": ["tie"],
    "spa_vl": [0],
    "sharegpt_ranking": [0],
    "mmpr": [0],
    "unified_reward": [1],
    "omni_rewardbench": [1],
    "perception_collection": [4],
    "editreward": [1],
    "editreward_bench": [1],
    "genai_bench": [1],
    "hpdv2": [1],
    "hpdv3": [0],
    "mj_bench": [0],
    "pick_a_pic": [0],
    "helpsteer3": [0],
    "text_preference": [0],
    "ultrafeedback": [1],
    "generic": [0, 0, "tie"],
}
"""Which response of each pair is the better one; the score of a single response."""

IN_COLUMN = ("llava_critic_grpo", "llava_critic_113k", "rlhf_v", "rlaif_v", "vl_rewardbench", "spa_vl")

EMBEDDED = {
    **dict.fromkeys(IN_COLUMN, "image"),
    "editreward": "left_output_image",
    "editreward_bench": "candidate_1",
    "genai_bench": "left_image",
    "mj_bench": "image0",
    "pick_a_pic": "jpg_0",
}
"""Sources that are Parquet files with the images inside -> the column of one."""

MADE = ("editreward", "editreward_bench", "genai_bench", "hpdv2", "hpdv3", "mj_bench", "pick_a_pic")
"""Sources whose responses are images."""

TEXT_ONLY = ("helpsteer3", "text_preference", "ultrafeedback")
"""Sources without images."""


def pairs_of(name: str, record: Record) -> list[PreferencePair]:
    """The pairs of a record, of which the source makes nothing else."""
    pairs = []
    for item in load_source(name).convert(record, Options()):
        for pair in item.pairs() if isinstance(item, RankedResponses) else [item]:
            assert isinstance(pair, PreferencePair)
            pairs.append(pair)
    return pairs
