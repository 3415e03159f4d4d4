"""The demo model on many images at once.

The stock forward of Qwen2.5-VL loops over the images of a batch in Python and does not share a prompt among its
responses. For a model this small that overhead dominates. Here every image is one 56x56 square and all prompts of a
batch have one length, so the vision tower is one batched computation, a prompt is computed once for all its responses,
and no attention mask is needed. The modules and weights are the model's own; a test compares the logits with the stock
forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.cache_utils import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_position_ids, rotate_half

from data_prep.tasks.prompts import MARKER
from recipe.critic_r1.demo.model import IMAGE_PAD, IMAGE_SIDE, MERGE, PATCH, TURN_END, VIDEO_PAD

GRID = IMAGE_SIDE // PATCH
PATCHES = GRID**2
IMAGE_TOKENS = (GRID // MERGE) ** 2

RESPONSE_TOKENS = 14
"""Tokens of a well-formed response in the plain demo, its end token included."""

MARGIN = 4
"""Tokens that a sampled response may have more than a well-formed one."""

MAX_NEW_TOKENS = RESPONSE_TOKENS + MARGIN


class FastForward:
    """Batched vision, prefill, sampling and response logits of one demo model.

    Args:
        model: in float32 on the CPU.
        processor: the processor of the same folder.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end_id: int = self.tokenizer.convert_tokens_to_ids(TURN_END)
        self.pad_id: int = self.tokenizer.pad_token_id
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        # verl masks these two in its rollouts.
        self._forbidden = [self.image_id, self.tokenizer.convert_tokens_to_ids(VIDEO_PAD)]
        self._prompt_ids: dict[str, list[int]] = {}
        self._response_ids: dict[str, list[int]] = {}
        self._positions: dict[int, tuple[Tensor, int]] = {}

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Patches of 56x56 images: (N, 16, 1176).

        Raises:
            ValueError: an image has another size.
        """
        out = self.processor.image_processor(images=list(images), return_tensors="pt")
        expected = torch.tensor([1, GRID, GRID])
        for row, grid in enumerate(out["image_grid_thw"]):
            if not torch.equal(grid, expected):
                raise ValueError(
                    f"image {row} is {images[row].size[0]}x{images[row].size[1]} pixels; "
                    f"the demo's images are {IMAGE_SIDE}x{IMAGE_SIDE}"
                )
        pixels: Tensor = out["pixel_values"]
        return pixels.view(len(images), PATCHES, -1).float()

    def by_length(self, prompts: Sequence[str]) -> list[list[int]]:
        """Places of the prompts that have one length in tokens, as a batch must; in the order of their first ones."""
        places: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places.setdefault(len(self._encode_prompt(prompt)), []).append(place)
        return list(places.values())

    def respond(self, prompts: Sequence[str], image_tokens: Tensor, *, copies: int = 1, **sampling: Any) -> list[str]:
        """The texts that `sample` gives for prompts of any length, those of one prompt together."""
        texts = [""] * (len(prompts) * copies)
        for places in self.by_length(prompts):
            ids = self.prompt_ids([prompts[place] for place in places])
            found = self.texts(self.sample(ids, image_tokens[places], copies=copies, **sampling))
            for row, place in enumerate(places):
                texts[place * copies : (place + 1) * copies] = found[row * copies : (row + 1) * copies]
        return texts

    def prompt_ids(self, prompts: Sequence[str]) -> Tensor:
        """Chat-formatted token ids of prompts with one image marker in front: (N, P).

        Raises:
            ValueError: the prompts differ in length.
        """
        rows = [self._encode_prompt(prompt) for prompt in prompts]
        if len({len(row) for row in rows}) > 1:
            raise ValueError("the prompts of one batch must have one length in tokens: batch policy and critic apart")
        return torch.tensor(rows)

    def _encode_prompt(self, prompt: str) -> list[int]:
        if prompt not in self._prompt_ids:
            content = [{"type": "image"}, {"type": "text", "text": prompt.removeprefix(MARKER)}]
            chat = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            chat = chat.replace(IMAGE_PAD, IMAGE_PAD * IMAGE_TOKENS)
            self._prompt_ids[prompt] = self.tokenizer.encode(chat, add_special_tokens=False)
        return self._prompt_ids[prompt]

    def encode(self, response: str) -> list[int]:
        """Token ids of a response with its end token."""
        if response not in self._response_ids:
            self._response_ids[response] = [*self.tokenizer.encode(response, add_special_tokens=False), self.end_id]
        return self._response_ids[response]

    def response_ids(self, responses: Sequence[str]) -> Tensor:
        """Token ids of responses, each with its end token, padded on the right: (N, R)."""
        rows = [self.encode(text) for text in responses]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in rows])

    def texts(self, responses: Tensor) -> list[str]:
        """The text of each response up to its end token; (N, R) -> N strings."""
        rows = [row[: row.index(self.end_id)] if self.end_id in row else row for row in responses.tolist()]
        texts: list[str] = self.tokenizer.batch_decode(rows)
        return texts

    @cached_property
    def _vision_rotary(self) -> tuple[Tensor, Tensor]:
        positions = get_vision_position_ids(torch.tensor([[1, GRID, GRID]]), MERGE)
        angles = self.model.model.visual.rotary_pos_emb(positions).reshape(PATCHES, -1)
        angles = torch.cat((angles, angles), -1).detach()
        return angles.cos(), angles.sin()

    def vision(self, pixels: Tensor) -> Tensor:
        """Image token embeddings: (N, 16, 1176) -> (N, 4, hidden).

        One image is exactly one attention window, so windowed and full layers are the same and no reordering happens.
        """
        tower = self.model.model.visual
        count = pixels.shape[0]
        cos, sin = self._vision_rotary
        hidden = tower.patch_embed(pixels.reshape(count * PATCHES, -1))
        for block in tower.blocks:
            attention = block.attn
            qkv = attention.qkv(block.norm1(hidden)).reshape(count, PATCHES, 3, attention.num_heads, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            query = query * cos + rotate_half(query) * sin
            key = key * cos + rotate_half(key) * sin
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
            hidden = hidden + attention.proj(mixed.reshape(count * PATCHES, -1))
            hidden = hidden + block.mlp(block.norm2(hidden))
        merged: Tensor = tower.merger(hidden)
        return merged.reshape(count, IMAGE_TOKENS, -1)

    def _prompt_positions(self, ids: Tensor) -> tuple[Tensor, int]:
        """Rotary positions of a prompt, (3, P), and the position that follows it. The image has a fixed position."""
        length = ids.shape[1]
        if length not in self._positions:
            one = ids[:1]
            positions, _ = self.model.model.get_rope_index(
                one, mm_token_type_ids=(one == self.image_id).int(), image_grid_thw=torch.tensor([[1, GRID, GRID]])
            )
            self._positions[length] = (positions[:, 0], int(positions.max()) + 1)
        return self._positions[length]

    def _prefill(self, ids: Tensor, image_tokens: Tensor) -> tuple[Tensor, Any, int]:
        decoder = self.model.model.language_model
        positions, following = self._prompt_positions(ids)
        embedded = decoder.embed_tokens(ids).masked_scatter((ids == self.image_id)[..., None], image_tokens)
        cache = DynamicCache(config=self.model.config.text_config)
        hidden = decoder(
            inputs_embeds=embedded,
            position_ids=positions[:, None].expand(3, ids.shape[0], -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        return hidden, cache, following

    def response_logits(
        self, ids: Tensor, image_tokens: Tensor, responses: Tensor, prompt_of: Tensor | None = None
    ) -> Tensor:
        """Logits that predict each response token.

        Args:
            ids: (B, P) prompts.
            image_tokens: (B, 4, hidden) from `vision`.
            responses: (N, R).
            prompt_of: (N,) row of `ids` that each response answers; by default one response per prompt, in order.

        Returns:
            (N, R, vocabulary).
        """
        hidden, cache, following = self._prefill(ids, image_tokens)
        if prompt_of is not None:
            cache.batch_select_indices(prompt_of)
            hidden = hidden[prompt_of]
        decoder = self.model.model.language_model
        steps = following + torch.arange(responses.shape[1] - 1)
        rest = decoder(
            inputs_embeds=decoder.embed_tokens(responses[:, :-1]),
            position_ids=steps.expand(3, responses.shape[0], -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(torch.cat([hidden[:, None], rest], 1))
        return logits

    @torch.no_grad()
    def sample(
        self,
        ids: Tensor,
        image_tokens: Tensor,
        *,
        copies: int = 1,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Tensor:
        """Responses to each prompt, (B * copies, R), those of one prompt together.

        Greedy at temperature 0, else sampled with `generator`. Copies with the same text so far are computed once: the
        demo's responses differ in two tokens, which saves most of the work.
        """
        hidden, cache, following = self._prefill(ids, image_tokens)
        decoder = self.model.model.language_model
        state_of = torch.arange(ids.shape[0]).repeat_interleave(copies)
        finished = torch.zeros(state_of.shape[0], dtype=torch.bool)
        tokens: list[Tensor] = []
        for step in range(max_new_tokens):
            logits = self.model.lm_head(hidden)
            logits[:, self._forbidden] = -torch.inf
            if temperature == 0:
                token = logits.argmax(-1)[state_of]
            else:
                chances = (logits / temperature).softmax(-1)
                token = torch.multinomial(chances[state_of], 1, generator=generator)[:, 0]
            token = token.masked_fill(finished, self.pad_id)
            tokens.append(token)
            finished |= token == self.end_id
            if finished.all() or step + 1 == max_new_tokens:
                break
            branches, state_of = torch.unique(torch.stack([state_of, token]), dim=1, return_inverse=True)
            cache.batch_select_indices(branches[0])
            hidden = decoder(
                inputs_embeds=decoder.embed_tokens(branches[1, :, None]),
                position_ids=torch.full((3, branches.shape[1], 1), following + step),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        return torch.stack(tokens, 1)
