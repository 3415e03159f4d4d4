"""The critic as a reward over HTTP: a server that prefers the larger number, and all that can go wrong with it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_fns.chat_judge import ChatJudge, data_url
from reward_fns.critic_groups import CriticGroups, JudgedGroup, critic_group_reward, question_of
from reward_fns.judge_reference import compute_score
from tests.judging.fake_server import FakeServer, answer, prefers_larger, say

PNG = b"\x89PNG\r\n\x1a\n image"
LIMITS: dict[str, Any] = {"template": "compact", "first_pause": 0.001}


def larger(attempt: int, body: dict[str, Any]) -> Any:
    """`prefers_larger` of the shared server, for prompts with any number of images."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    return prefers_larger(attempt, {**body, "messages": [{"content": [{"text": text}]}]})


def scores(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that scores the number in the response; 0 is one that it does not score."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    number = text.partition("Response:\n")[2].partition("\n")[0]
    return answer(body, "I cannot say." if number == "0" else say(number))


def boxed(*numbers: object) -> list[str]:
    return [f"<think>a</think>\\boxed{{{number}}}" for number in numbers]


def judged(
    behaviour: Callable[[int, dict[str, Any]], Any],
    responses: list[str],
    *,
    images: tuple[Any, ...] = (PNG,),
    limits: dict[str, Any] | None = None,
    reference: str = "2",
    **settings: Any,
) -> tuple[JudgedGroup, list[dict[str, Any]]]:
    async def run() -> JudgedGroup:
        async with ChatJudge(server.url, "critic", **{**LIMITS, **(limits or {})}) as critic:
            groups = CriticGroups(**{"shown": "answer", **settings})
            return await groups.score(critic, "Which digit?", images, responses, reference=reference)

    with FakeServer(behaviour) as server:
        return asyncio.run(run()), server.bodies


def acc(group: JudgedGroup) -> list[float]:
    return [reward["acc"] for reward in group.rewards]


@pytest.mark.parametrize(
    ("scheme", "numbers", "expected"),
    [
        ("win_rate", [1, 3, 2], [0.0, 1.0, 0.5]),
        ("win_rate", [3, 1, 3], [1.0, 0.0, 1.0]),  # equal answers share a score
        ("knock_out", [1, 2, 3, 4, 5], [None, None, None, None, 1.0]),
        ("bradley_terry", [1, 3], [0.27, 0.73]),
        ("margin", [1, 2, 3], [0.0, 0.5, 1.0]),
        ("win_rate", ["", 3, 2], [0.0, 1.0, 0.0]),  # no answer is never shown
        ("win_rate", ["", 3, 3], [0.0, 0.5, 0.5]),
        ("win_rate", ["", "", ""], [0.0, 0.0, 0.0]),
        ("win_rate", [3, 3, 3], [0.5, 0.5, 0.5]),
    ],
)
def test_scores(scheme: str, numbers: list[Any], expected: list[float | None]) -> None:
    group, _ = judged(larger, boxed(*numbers), scheme=scheme)
    for found, wanted in zip(acc(group), expected, strict=True):
        assert wanted is None or found == pytest.approx(wanted, abs=0.01)
    assert group.metrics["unjudged"] == 0.0


@pytest.mark.parametrize(
    ("numbers", "expected", "logged"),
    [
        ([1, 9, 4], [0.1, 0.9, 0.4], [0.1, 0.9, 0.4]),
        ([9, 3, 9, ""], [0.9, 0.3, 0.9, 0.0], [0.9, 0.3, 0.9]),  # no answer is never shown
        ([0, 2, 8], [0.5, 0.2, 0.8], [None, 0.2, 0.8]),
        (["8/10", 10.5], [0.8, 0.8], [0.8, None]),
        ([6, 6], [0.6, 0.6], [0.6, 0.6]),
    ],
)
def test_each_answer_is_scored_alone(numbers: list[Any], expected: list[float], logged: list[float | None]) -> None:
    group, bodies = judged(scores, boxed(*numbers), scheme="pointwise")
    assert acc(group) == pytest.approx(expected)
    assert group.matches == [[{"score": one}] for one in logged] + [[]] * (len(numbers) - len(logged))
    assert len(bodies) == len({number for number in numbers if number != ""})
    assert group.metrics["judgements"] == len(bodies)
    assert group.metrics["completion_tokens"] == 5 * len(bodies)
    for body in bodies:
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
        assert "from 0 (worst) to 10 (best)" in body["messages"][0]["content"][1]["text"]


def test_one_order_is_asked_and_logged() -> None:
    group, bodies = judged(larger, boxed(1, 3, 2), scheme="win_rate", orders="drawn")
    assert (acc(group), len(bodies)) == ([0.0, 1.0, 0.5], 3)
    for matches in group.matches:
        assert [match["verdicts"].count("not asked") for match in matches] == [1, 1]
    assert "flipped" not in group.metrics


GREEDY: dict[str, Any] = {"scheme": "margin", "reference": "greedy"}


@pytest.mark.parametrize(
    ("greedy", "shown", "expected", "asked"),
    [
        ("<think>a</think>\\boxed{2}", "answer", [0.0, 0.5, 1.0], 2),
        ("\\boxed{\\text{2}}", "answer", [0.0, 0.5, 1.0], 2),  # the same answer in another form
        ("<think>b</think>\\boxed{2}", "response", [0.5, 0.5, 0.5], 2),
        ("No box at all.", "response", [0.5, 0.5, 0.5], 3),
        ("No box at all.", "answer", "the greedy response has no answer to compare with (no_box)", 0),
        ("", "response", "the greedy response has no response to compare with (empty)", 0),
    ],
)
@pytest.mark.parametrize("orders", ["both", "drawn"])
def test_responses_against_the_greedy_one(
    greedy: str, shown: str, expected: list[float] | str, asked: int, orders: str
) -> None:
    behaviour = larger if shown == "answer" else lambda n, body: answer(body, say("tie"))

    async def run() -> JudgedGroup:
        async with ChatJudge(server.url, "critic", **LIMITS) as critic:
            groups = CriticGroups(scheme="margin", reference="greedy", shown=shown, orders=orders)  # type: ignore[arg-type]
            return await groups.score(critic, "Which digit?", [PNG], boxed(1, 2, 3), reference=greedy)

    with FakeServer(behaviour) as server:
        group = asyncio.run(run())
    if isinstance(expected, str):
        assert (group.failure, acc(group)) == (expected, [0.5] * 3)
    else:
        assert (group.failure, acc(group)) == ("", expected)
    assert len(server.bodies) == (2 * asked if orders == "both" else asked)
    assert all("boxed{2" in str(body) or "No box" in str(body) for body in server.bodies) == (
        shown == "response" or not server.bodies
    )


def test_what_the_critic_is_shown_and_what_is_logged() -> None:
    webp = b"RIFF1234WEBP"
    group, bodies = judged(larger, boxed(1, 3), images=(PNG, webp))
    assert len(bodies) == 2
    for body in bodies:
        content = body["messages"][0]["content"]
        urls = [part["image_url"]["url"].partition(";")[0] for part in content if part["type"] == "image_url"]
        assert urls == ["data:image/png", "data:image/webp"]
        text = "".join(part.get("text", "") for part in content)
        assert "Which digit?" in text
        assert "think" not in text
        assert (body["model"], body["temperature"]) == ("critic", 0.0)
    assert group.matches == [
        [{"against": 1, "share": 0.0, "verdicts": ["2", "1"]}],
        [{"against": 0, "share": 1.0, "verdicts": ["1", "2"]}],
    ]
    assert group.metrics["prompt_tokens"] == 22
    assert group.metrics["completion_tokens"] == 10
    assert [reward["score"] for reward in group.rewards] == [0.1, 1.0]


def test_the_whole_response_is_shown_when_asked_for() -> None:
    _, bodies = judged(lambda n, body: answer(body, say(1)), boxed(1, 3), shown="response")
    assert all("boxed{3}" in str(body) for body in bodies)


FAULTS = ["408", "429", "500", "503", "cut", "hang up", "broken json", "html", "bytes", "list", "no choices"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_server_changes_no_number(fault: str) -> None:
    numbers = boxed(4, 1, 3, 1)
    quiet, _ = judged(larger, numbers, scheme="win_rate")
    disturbed, bodies = judged(lambda n, body: fault if n < 3 else larger(n, body), numbers, scheme="win_rate")
    assert disturbed.rewards == quiet.rewards
    assert disturbed.matches == quiet.matches
    assert len(bodies) == 3 * 2 * 3, "three attempts, both orders, three pairs of different answers"


@pytest.mark.parametrize(
    ("text", "extra", "read"),
    [
        (say(1), {}, 1.0),
        ("I cannot say.", {}, None),
        ("\\boxed{1}", {"finish_reason": "length"}, None),  # cut off
        (None, {"refusal": "No."}, None),
        (None, {"finish_reason": "content_filter"}, None),
        ("\\boxed{1}", {"reasoning_content": "Hm. \\boxed{2}"}, 1.0),
    ],
)
def test_what_the_critic_wrote_is_a_verdict_or_unreadable(text: str | None, extra: dict[str, str], read: Any) -> None:
    def behave(attempt: int, body: dict[str, Any]) -> Any:
        reply = answer(body, "")
        end = {"finish_reason": extra["finish_reason"]} if "finish_reason" in extra else {}
        message = {name: value for name, value in extra.items() if name != "finish_reason"} | {"content": text}
        reply["choices"][0] |= end
        reply["choices"][0]["message"] |= message
        return reply

    group, bodies = judged(behave, boxed(1, 3))
    assert len(bodies) == 2, "a final answer is asked for once"
    assert group.metrics["unreadable"] == (1.0 if read is None else 0.0)
    assert acc(group) == [0.5, 0.5]  # the first place both times, or nothing


@pytest.mark.parametrize(
    ("behaviour", "limits", "settings", "images", "cause"),
    [
        (lambda n, body: "503", {"attempts": 2}, {}, (PNG,), "503"),
        (lambda n, body: "404", {}, {}, (PNG,), "404"),
        (lambda n, body: "hang", {"attempts": 2, "timeout": 0.1}, {}, (PNG,), "TimeoutError"),
        (lambda n, body: "hang", {"timeout": 60}, {"seconds": 0.2}, (PNG,), "within 0.2 seconds"),
        (larger, {}, {}, (b"not an image",), "not a PNG"),
        (larger, {}, {}, (object(),), "PIL.Image"),
        (larger, {"template": "none"}, {}, (), "no template"),
        (lambda n, body: "503", {"attempts": 2}, {"scheme": "pointwise"}, (PNG,), "503"),
        (lambda n, body: "503", {"attempts": 2}, {"orders": "drawn"}, (PNG,), "503"),
    ],
)
def test_a_group_that_cannot_be_judged_has_no_advantage(
    behaviour: Any, limits: dict[str, Any], settings: dict[str, Any], images: tuple[Any, ...], cause: str
) -> None:
    started = time.monotonic()
    responses = [*boxed(1, 3), "no form"]
    group, _ = judged(behaviour, responses, limits=limits, images=images, **settings)
    assert time.monotonic() - started < 5
    assert cause in group.failure
    assert [(reward["score"], reward["reason"]) for reward in group.rewards] == [(0.0, "unjudged")] * 3
    assert group.metrics["unjudged"] == 1.0
    assert list(group.rewards[0]) == list(judged(larger, boxed(1, 3))[0].rewards[0])


def test_a_server_that_is_not_there() -> None:
    with FakeServer(larger) as server:
        port = server.port

    async def run() -> JudgedGroup:
        async with ChatJudge(f"http://127.0.0.1:{port}/v1", "critic", attempts=2, first_pause=0.01) as critic:
            return await CriticGroups().score(critic, "?", [], boxed(1, 2))

    assert "APIConnectionError" in asyncio.run(run()).failure


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CriticGroups(scheme="best"), "scheme"),  # type: ignore[arg-type]
        (lambda: CriticGroups(shown="box"), "shown"),  # type: ignore[arg-type]
        (lambda: CriticGroups(format_weight=2), "format_weight"),
        (lambda: CriticGroups(seconds=0), "seconds"),
        (lambda: CriticGroups(orders="one"), "orders must be one of both, drawn"),  # type: ignore[arg-type]
        (lambda: CriticGroups(reference="best"), "reference must be"),  # type: ignore[arg-type]
        (lambda: CriticGroups(reference="greedy"), "for scheme=margin, not knock_out"),
        (lambda: critic_group_reward("http://x/v1", "critic", **GREEDY), "in the column ground_truth"),
        (lambda: ChatJudge("", "critic"), "url"),
        (lambda: ChatJudge("http://x/v1", "critic", attempts=0), "attempts"),
        (lambda: critic_group_reward("http://x/v1", "critic", scheme="best"), "scheme"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
    with pytest.raises(TypeError, match="retries"):
        critic_group_reward("http://x/v1", "critic", retries=3)


def test_the_reward_function_for_trl() -> None:
    from PIL import Image

    prompts = ["Which digit?"] * 2 + [[{"role": "user", "content": "Which one?"}]] * 3
    completions = boxed(1, 3) + [[{"role": "assistant", "content": text}] for text in boxed(5, 4, 5)]
    columns = {"images": [[Image.new("RGB", (4, 4))]] * 5, "ground_truth": ["1"] * 5, "trainer_state": object()}
    with FakeServer(larger) as server:
        reward = critic_group_reward(server.url, "critic", shown="answer", scheme="win_rate", **LIMITS)

        async def inside_a_loop() -> list[float]:
            return reward(prompts=prompts, completions=completions, **columns)

        expected = [0.1, 1.0, 1.0, 0.1, 1.0]
        assert reward(prompts=prompts, completions=completions, **columns) == expected
        assert asyncio.run(inside_a_loop()) == expected
    assert len(server.bodies) == 2 * 2 * 2
    assert reward.__name__ == "critic_group"


@pytest.mark.parametrize(
    ("behaviour", "options", "expected", "asked"),
    [
        (larger, {"scheme": "win_rate", "orders": "drawn"}, [0.1, 1.0, 1.0, 0.1, 1.0], 2),
        (scores, {"scheme": "pointwise"}, [0.1 + 0.09, 0.1 + 0.27, 0.1 + 0.45, 0.1 + 0.36, 0.1 + 0.45], 4),
    ],
)
def test_other_schemes_for_trl(behaviour: Any, options: dict[str, str], expected: list[float], asked: int) -> None:
    with FakeServer(behaviour) as server:
        reward = critic_group_reward(server.url, "critic", shown="answer", **options, **LIMITS)
        prompts = ["Which digit?"] * 2 + ["Which one?"] * 3
        assert reward(prompts=prompts, completions=boxed(1, 3, 5, 4, 5)) == pytest.approx(expected)
    assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("<image>Which digit?", "Which digit?"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>\nWhich?"}], "Which?"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}], "Which?"),
        ([{"role": "user", "content": "A?"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "B?"}],
         "A?\nB?"),
    ],
)  # fmt: skip
def test_the_question_of_a_prompt(prompt: Any, question: str) -> None:
    assert question_of(prompt) == question


@pytest.mark.parametrize(
    ("response", "score", "asked"),
    [
        ("<think>a</think>\\boxed{7}", 1.0, 2),  # better than the reference
        ("<think>a</think>\\boxed{5}", 1.0, 0),  # the same text
        ("<think>a</think>\\boxed{3}", 0.1, 2),
        ("\\boxed{3}", 0.0, 2),
    ],
)
@pytest.mark.parametrize("router", [False, True])
def test_the_reward_against_a_reference(response: str, score: float, asked: int, router: bool) -> None:
    with FakeServer(larger) as server:
        place: dict[str, Any] = {"reward_router_address": f"127.0.0.1:{server.port}"} if router else {"url": server.url}
        found = asyncio.run(compute_score("x", response, "5", {"question": "?"}, model="critic", **place, **LIMITS))
    assert found["score"] == pytest.approx(score)
    assert len(server.bodies) == asked


def test_a_reference_that_cannot_be_judged_is_neither_right_nor_wrong() -> None:
    with FakeServer(lambda n, body: "404") as server:
        found = asyncio.run(compute_score("x", boxed(3)[0], "5", model="critic", url=server.url, **LIMITS))
    assert (found["acc"], found["reason"]) == (0.5, "unjudged")
    with pytest.raises(ValueError, match="url"):
        asyncio.run(compute_score("x", "3", "5", model="critic"))


@pytest.mark.slow
@pytest.mark.parametrize("by_path", [False, True])
def test_verl_loads_it_as_an_async_reward(by_path: bool) -> None:
    import inspect

    from verl.utils.import_utils import load_extern_object

    import reward_fns

    path = (
        str(Path(reward_fns.__file__).with_name("judge_reference.py"))
        if by_path
        else "pkg://reward_fns.judge_reference"
    )
    function = load_extern_object(module_path=path, object_name="compute_score")
    assert inspect.iscoroutinefunction(function)
    with FakeServer(lambda n, body: "404") as server:
        found = asyncio.run(function("x", boxed(3)[0], "5", model="critic", url=server.url, **LIMITS))
    assert found["reason"] == "unjudged"


def test_images_keep_their_bytes() -> None:
    assert data_url(PNG) == "data:image/png;base64,iVBORw0KGgogaW1hZ2U="


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found, bodies = judged(larger, boxed(1, 3), limits={"attempts": 1}, shown="answer", scheme="win_rate")
    assert (found.metrics["unjudged"], len(bodies)) == (0.0, 2)
