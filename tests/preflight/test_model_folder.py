"""A model folder that training or the rollout engine cannot use is refused, with what is wrong in it."""

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from data_prep.lengths.meter import PromptMeter, real_length
from data_prep.lengths.processor import load_processor
from recipe.critic_r1 import preflight
from recipe.critic_r1.preflight import model_folder
from tests.preflight.conftest import KWARGS, MODEL, Run, demo, every_refusal_was_made


@pytest.fixture
def folder(good: dict[str, str]) -> Path:
    return Path(good[f"{MODEL}.path"])


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=None)


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def thinking_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "<think>\n")


def half_a_folder(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def config(**values: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "config.json", **values)


ENDLESS = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_template, "chat template: .* has none"),
        (
            template("{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}"),
            r"writes <\|image_pad\|> 0 times for one image",
        ),
        (template("{{ raise_exception('no images here') }}"), "cannot be rendered .*no images here"),
        (template(ENDLESS), "cannot be rendered .*not finished within 1 s"),
        (template("{{ 'a' * 99999999999 }}"), "cannot be rendered .*MemoryError"),
        (thinking_template, "writes <think> itself"),
        (
            config(architectures=["MllamaForConditionalGeneration"]),
            "does not serve MllamaForConditionalGeneration; 0.10.2 was the last",
        ),
        (config(image_token_id=10**6), "no token with config.json's image_token_id"),
        (config(architectures=["NobodysForConditionalGeneration"]), "does not name NobodysForConditionalGeneration"),
        (half_a_folder, "lacks tokenizer_config.json"),
    ],
)
def test_a_spoilt_model_folder_is_named(
    good: dict[str, str], folder: Path, spoil: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "not finished" in said:
        monkeypatch.setattr(model_folder, "RENDER_SECONDS", 1)
    spoil(folder)
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(demo(good))


def test_a_prefilled_think_is_fine_when_the_reward_knows(good: dict[str, str], folder: Path) -> None:
    thinking_template(folder)
    preflight.check(demo(good | {f"{KWARGS}.prefilled": "true"}))


SYSTEM = "<|im_start|>system\\nYou are an assistant.<|im_end|>\\n"

TEXT_TEMPLATE = (
    "{{- '" + SYSTEM + "' }}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def templates_of_mimo(folder: Path, *, with_images: bool) -> None:
    """MiMo-VL's kind: the tokenizer's template takes texts only, the processor's takes images and a system turn."""
    path = folder / "chat_template.jinja"
    image_template = "{{ '" + SYSTEM + "' }}" + path.read_text()
    path.unlink()
    edit(folder / "tokenizer_config.json", chat_template=TEXT_TEMPLATE)
    if with_images:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": image_template}))


def test_a_folder_with_two_templates_is_read_as_the_processor_reads_it(good: dict[str, str], folder: Path) -> None:
    templates_of_mimo(folder, with_images=True)
    (found,) = model_folder.chat_template(demo(good))
    assert (found.status, found.detail) == ("pass", "<|image_pad|> once for an image")
    processor, prompt = load_processor(str(folder)), "<image>Which response is better?"
    assert "You are an assistant." in PromptMeter(processor).rendered(prompt)
    (tokens,) = PromptMeter(processor).measure([prompt], [[(56, 56)]])
    assert tokens == real_length(processor, prompt, [PIL.Image.new("RGB", (56, 56))])


def test_a_template_for_texts_only_is_refused(good: dict[str, str], folder: Path) -> None:
    templates_of_mimo(folder, with_images=False)
    (found,) = model_folder.chat_template(demo(good))
    assert found.status == "fail"
    assert "cannot be rendered for a prompt with an image" in found.detail


def test_a_folder_that_is_not_there_is_named(good: dict[str, str]) -> None:
    with pytest.raises(preflight.PreflightError, match="/no/such/model is not a folder"):
        preflight.check(demo(good | {f"{MODEL}.path": "/no/such/model"}))


def test_a_hub_id_without_the_hub_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = run.config({})
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert [finding.status for finding in model_folder.folder(given)] == ["pass"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = model_folder.folder(given)
    assert (found.status, "HF_HUB_OFFLINE=1" in found.detail) == ("fail", True)


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "model_folder.py")
