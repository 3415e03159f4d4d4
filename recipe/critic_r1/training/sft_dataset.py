"""Critic tasks as conversations to imitate, for the paper's ablation by verl's SFT trainer.

GRPO's rows hold a prompt and a label, and no rationale: the paper removes the ones that came with the data. So the
response to imitate is the bare verdict. verl's data set class reads images, masks the prompt and packs sequences;
only the last turn and the limits of an image are added here, so that one set of Parquet files serves both trainings.
"""

from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.py_functional import convert_nested_value_to_list_recursive

from recipe.critic_r1.images.dataset import opened


def conversation(prompt: list[dict[str, Any]], ground_truth: str) -> list[dict[str, Any]]:
    """The turns of a row: its prompt, then its label as a verdict.

    >>> conversation([{"role": "user", "content": "Which?"}], "2")[-1]
    {'role': 'assistant', 'content': '\\\\boxed{2}'}
    """
    return [*prompt, {"role": "assistant", "content": f"\\boxed{{{ground_truth}}}"}]


class CriticSFTDataset(MultiTurnSFTDataset):  # type: ignore[misc]
    """verl's `MultiTurnSFTDataset` on rows of `critic-r1 prepare`.

    ``data.messages_key`` is ``prompt``. ``min_pixels`` and ``max_pixels`` of ``data.mm_processor_kwargs`` go to
    qwen_vl_utils with each image: verl's SFT data set does not hand anything to the processor.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        self._limits = dict(config.get("mm_processor_kwargs") or {})
        super().__init__(parquet_files, tokenizer, config, *args, **kwargs)

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        prompt = convert_nested_value_to_list_recursive(example[self.messages_key])
        images = [{**opened(image), **self._limits} for image in example[self.image_key]]
        turns = conversation(prompt, example["reward_model"]["ground_truth"])
        row = {**example, self.messages_key: turns, self.image_key: images}
        messages: list[dict[str, Any]] = super()._build_messages(row)
        return messages
