"""The reward manager in verl's own reward worker, with a critic on a server: what each response of a group gets."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

from recipe.critic_r1.training.group_reward import CriticGroupRewardManager, use_rollout_servers
from recipe.critic_r1.training.judge_settings import asks_the_policy
from tests.judging.fake_server import Behaviour, FakeServer, _send, answer
from tests.reward_fns.test_critic_groups import PNG, boxed, larger, scores

PLACE = {
    "source": "importlib",
    "name": "CriticGroupRewardManager",
    "module": {"path": "pkg://recipe.critic_r1.training.group_reward"},
}


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        return "".join(chr(int(i)) for i in ids)


def settings(
    url: str | None = "http://127.0.0.1:1/v1", *, workers: int = 8, image_path: str = "shared", **own: Any
) -> Any:
    judge = {"url": url, "model": "critic", "template": "compact", "shown": "answer", "scheme": "win_rate"}
    return OmegaConf.create(
        {
            "critic_r1": {
                "image_path": image_path,
                "group_reward": judge | {"first_pause": 0.001, "attempts": 4} | own,
            },
            "actor_rollout_ref": {"rollout": {"n": 3}, "model": {"tokenizer_path": "none", "path": "none"}},
            "data": {"max_response_length": 77},
            "trainer": {"v1": {"trainer_mode": "critic_sync"}},
            "reward": {
                "num_workers": workers,
                "custom_reward_function": {"path": "pkg://reward_fns.mixed", "name": "compute_score"},
                "reward_manager": PLACE,
                "reward_model": {"enable": False, "enable_resource_pool": False, "model_path": "the/critic"},
            },
        }
    )


def worker(config: Any, monkeypatch: pytest.MonkeyPatch, router: str | None = None) -> Any:
    """verl's own reward worker, outside of Ray."""
    module = "verl.experimental.reward_loop.reward_loop"
    monkeypatch.setattr(f"{module}.copy_to_local", lambda path: path)
    monkeypatch.setattr(f"{module}.hf_tokenizer", lambda *_, **__: Letters())
    return RewardLoopWorker(config, router)


def group(responses: list[str], *, uid: str = "a", source: str = "policy/digits", **columns: Any) -> DataProto:
    """A batch as the recipe's rollout sends it; columns that are None are left out."""
    ids = [torch.tensor([ord(letter) for letter in text]) for text in responses]
    image = {"type": "image", "bytes": PNG}
    given: dict[str, Any] = {
        "uid": uid,
        "data_source": source,
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"question": "Which digit?", "split": "train"},
        "raw_prompt": [{"role": "user", "content": [image, {"type": "text", "text": "Which digit? Think."}]}],
        "group_size": len(responses),
        "validate": False,
    } | columns
    rows = {name: np.empty(len(responses), dtype=object) for name, value in given.items() if value is not None}
    for name, column in rows.items():
        column[:] = [given[name]] * len(responses)
    rows["session_id"] = np.arange(len(responses))
    return DataProto.from_dict(
        tensors={
            "prompts": torch.ones(len(responses), 2, dtype=torch.int64),
            "responses": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        },
        non_tensors=rows,
    )


def scored(
    monkeypatch: pytest.MonkeyPatch,
    data: DataProto,
    behaviour: Callable[[int, dict[str, Any]], Any] = larger,
    **own: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async def run() -> Any:
        verls = worker(settings(server.url, **own), monkeypatch)
        async with verls.reward_manager._critics[0]:
            return await verls.compute_score_batch(data)

    with FakeServer(behaviour) as server:
        return asyncio.run(run()), server.bodies


def test_a_group_is_rewarded_by_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    results, bodies = scored(monkeypatch, group([*boxed(1, 3, 2), "\\boxed{3}", "none"]))
    assert [result["reward_score"] for result in results] == pytest.approx([0.1, 1.0, 0.55, 0.9, 0.0])
    extra = [result["reward_extra_info"] for result in results]
    assert [one["pred"] for one in extra] == ["1", "3", "2", "3", ""]
    assert [one["reason"] for one in extra] == ["ok", "ok", "ok", "no_think", "no_box"]
    assert not {"truth", "credit"} & set(extra[0]), "the label is neither paid nor logged"
    assert [[match["against"] for match in one["matches"]] for one in extra] == [[1, 2], [0, 2], [0, 1], [0, 2], []]
    assert extra[0]["group"] == extra[1]["group"]
    assert extra[0]["group"]["matches"] == 3
    assert len({tuple(one) for one in extra}) == 1, "the same keys"
    assert len(bodies) == 6
    for body in bodies:
        parts = body["messages"][0]["content"]
        assert [part["type"] for part in parts] == ["image_url", "text"]
        assert "Think." not in parts[1]["text"], "the critic is told the bare question"


def test_each_response_is_scored_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = [*boxed(1, 9, 1, 0), "none"]
    results, bodies = scored(monkeypatch, group(responses), scores, scheme="pointwise", format_weight=0)
    # 0 is the answer whose score the critic does not give: the mean of the others counts.
    mean = (0.1 + 0.9 + 0.1) / 3
    assert [result["reward_score"] for result in results] == pytest.approx([0.1, 0.9, 0.1, mean, 0.0])
    extra = [result["reward_extra_info"] for result in results]
    assert [one["matches"] for one in extra] == [*([{"score": s}] for s in (0.1, 0.9, 0.1, None)), []]
    assert (len(bodies), extra[0]["group"]["judgements"]) == (3, 3.0)


def test_a_drawn_order_is_half_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    results, bodies = scored(monkeypatch, group(boxed(1, 3, 2)), orders="drawn")
    assert [result["reward_score"] for result in results] == pytest.approx([0.1, 1.0, 0.55])
    assert len(bodies) == 3
    for result in results:
        for match in result["reward_extra_info"]["matches"]:
            assert match["verdicts"].count("not asked") == 1


@pytest.mark.parametrize("fault", ["503", "cut", "hang up", "broken json"])
def test_a_faulty_server_gives_the_same_numbers(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    responses = boxed(4, 1, 3)
    quiet, _ = scored(monkeypatch, group(responses))
    disturbed, bodies = scored(monkeypatch, group(responses), lambda n, body: fault if n < 3 else larger(n, body))
    assert len(bodies) == 18
    for result in (*quiet, *disturbed):
        group_metrics = result["reward_extra_info"]["group"]
        assert group_metrics["seconds"] > 0
        result["reward_extra_info"]["group"] = {**group_metrics, "seconds": 0.0}
    assert disturbed == quiet


@pytest.mark.parametrize(
    ("behaviour", "own"),
    [
        (lambda n, body: "404", {}),
        (lambda n, body: "500", {"attempts": 2}),
        (lambda n, body: "hang", {"attempts": 2, "timeout": 0.1}),
        (lambda n, body: "hang", {"seconds": 0.2}),
        (larger, {"group_size": 4, "wait_seconds": 0.2}),  # a response that never comes
    ],
)
def test_a_group_that_cannot_be_judged_is_counted_and_has_no_advantage(
    behaviour: Any, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = own.pop("group_size", 3)
    results, _ = scored(monkeypatch, group([*boxed(1, 3), "none"], group_size=size), behaviour, **own)
    assert [result["reward_score"] for result in results] == [0.0] * 3
    for result in results:
        assert result["reward_extra_info"]["reason"] == "unjudged"
        assert result["reward_extra_info"]["group"]["unjudged"] == 1.0


@pytest.mark.parametrize(
    "columns",
    [
        {"validate": True, "group_size": 1},
        {"validate": None, "group_size": None, "extra_info": {"split": "val"}},  # verl's own rollout does not say
        {"source": "critic/digits"},
    ],
)
def test_held_out_rows_and_critic_tasks_are_scored_by_the_truth(
    columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, bodies = scored(monkeypatch, group(boxed(2, 1), **columns))
    assert [result["reward_score"] for result in results] == pytest.approx([1.0, 0.1])
    assert bodies == []


def test_verls_own_rollout_sends_one_response_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts, their responses in turn, from an image that is open already."""
    from PIL import Image

    message = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (4, 4))}]}]
    columns: dict[str, Any] = {"group_size": None, "validate": None, "raw_prompt": message}
    batches = [group(boxed(1, 3, 2), uid="a", **columns), group(boxed(7, 9, 9), uid="b", **columns)]

    async def run() -> list[dict[str, Any]]:
        verls = worker(settings(server.url, workers=1, image_path="stock"), monkeypatch)
        async with verls.reward_manager._critics[0]:
            found: list[dict[str, Any]] = await asyncio.gather(
                *(verls.compute_score(data[i : i + 1]) for i in range(3) for data in batches)
            )
            return found

    with FakeServer(larger) as server:
        results = asyncio.run(run())
    scores = [result["reward_score"] for result in results]
    assert scores[0::2] == pytest.approx([0.1, 1.0, 0.55])
    assert scores[1::2] == pytest.approx([0.1, 1.0, 1.0])


def test_verls_own_rollout_needs_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"reward\.num_workers=1"):
        scored(monkeypatch, group(boxed(1, 3, 2), group_size=None))  # tools, videos: verl's path for single prompts
    with pytest.raises(ValueError, match=r"reward\.num_workers=1"):
        CriticGroupRewardManager(settings(image_path="stock"), Letters(), None)


def test_the_frozen_critic_is_verls_reward_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in the place of verl's router, which passes on whatever path it is asked for."""
    config = settings(judge="frozen", url=None, model=None)
    config.reward.reward_model.update({"enable": True, "enable_resource_pool": True})

    async def run() -> Any:
        verls = worker(config, monkeypatch, f"127.0.0.1:{server.port}")
        async with verls.reward_manager._critics[0]:
            return await verls.compute_score_batch(group(boxed(1, 3)))

    with FakeServer(larger) as server:
        results = asyncio.run(run())
    assert [result["reward_score"] for result in results] == pytest.approx([0.1, 1.0])
    assert {body["model"] for body in server.bodies} == {"the/critic"}


class RolloutServer(FakeServer):
    """A server that also lists its model."""

    def __init__(self, behaviour: Behaviour = larger) -> None:
        super().__init__(behaviour)

        def do_get(handler: Any) -> None:
            _send(handler, 200, json.dumps({"object": "list", "data": [{"id": "listed", "object": "model"}]}).encode())

        self._http.RequestHandlerClass.do_GET = do_get  # type: ignore[attr-defined]


def test_the_critic_is_the_policy_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rollout servers; a group stays on one of them, under the name that the server gives its model."""
    config = settings(judge="self", url=None, model=None)

    async def run(uids: list[str]) -> Any:
        verls = worker(config, monkeypatch)
        use_rollout_servers(verls, [f"127.0.0.1:{server.port}" for server in servers])
        found = await asyncio.gather(*(verls.compute_score_batch(group(boxed(1, 3), uid=uid)) for uid in uids))
        for critic in verls.reward_manager._critics:
            await critic.__aexit__()
        return found

    with RolloutServer() as first, RolloutServer() as second:
        servers = [first, second]
        results = asyncio.run(run([f"group {i}" for i in range(8)]))
        asked = [len(server.bodies) for server in servers]
    assert sum(asked) == 8 * 2
    assert all(count and count % 2 == 0 for count in asked)
    assert {body["model"] for server in servers for body in server.bodies} == {"listed"}
    for result in results:
        assert [one["reward_score"] for one in result] == pytest.approx([0.1, 1.0])


GREEDY: dict[str, Any] = {"scheme": "margin", "reference": "greedy"}


def against_greedy(
    monkeypatch: pytest.MonkeyPatch, batches: list[DataProto], says: Behaviour, **own: Any
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rewards by a critic on a server, the requests to it, and those to the policy's two rollout servers."""

    async def run() -> Any:
        verls = worker(settings(critic.url, **GREEDY, **own), monkeypatch)
        use_rollout_servers(verls, [f"127.0.0.1:{server.port}" for server in servers])
        found = await asyncio.gather(*(verls.compute_score_batch(data) for data in batches))
        for judge in (*verls.reward_manager._critics, *verls.reward_manager._policies):
            await judge.__aexit__()
        return found

    with FakeServer(larger) as critic, RolloutServer(says) as first, RolloutServer(says) as second:
        servers = [first, second]
        return asyncio.run(run()), critic.bodies, [*first.bodies, *second.bodies]


def test_responses_are_compared_with_the_policys_greedy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once a prompt, as the rollout asks; a label of 9 in the data changes nothing."""
    image = {"type": "image", "bytes": PNG}
    batches = [
        group(
            boxed(1, 3, 2),
            uid=f"group {i}",
            reward_model={"style": "rule", "ground_truth": "9"},
            raw_prompt=[{"role": "user", "content": [image, {"type": "text", "text": f"Digit {i}? Think."}]}],
        )
        for i in range(4)
    ]
    results, judged, policy = against_greedy(
        monkeypatch, batches, lambda n, sent: "503" if n == 1 else answer(sent, boxed(2)[0])
    )
    for result in results:
        assert [one["reward_score"] for one in result] == pytest.approx([0.1, 1.0, 0.55])
        matches = [one["reward_extra_info"]["matches"] for one in result]
        assert [match["against"] for (match,) in matches] == [-1, -1, -1]
        assert [match["verdicts"] for (match,) in matches] == [["2", "1"], ["1", "2"], ["not asked"] * 2]
    assert len(judged) == 4 * 2 * 2
    once = {(body["model"], body["temperature"], body["max_tokens"], body["n"]) for body in policy}
    assert (once, len(policy)) == ({("listed", 0.0, 77, 1)}, 2 * 4)
    for body in policy:
        (message,) = body["messages"]
        assert message["role"] == "user"
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
        assert message["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    asked = sorted(body["messages"][0]["content"][1]["text"] for body in policy)
    assert asked == sorted([f"Digit {i}? Think." for i in range(4)] * 2), (
        "the whole prompt, and once more after a fault"
    )


def test_a_prompt_reaches_the_policy_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    config = settings(**GREEDY)
    config.data.apply_chat_template_kwargs = {"enable_thinking": False}
    monkeypatch.setitem(globals(), "settings", lambda *_, **__: config)
    results, _, policy = against_greedy(
        monkeypatch, [group(boxed(1, 3), raw_prompt=chat)], lambda n, sent: answer(sent, boxed(2)[0])
    )
    assert policy[0]["messages"] == chat
    assert policy[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert {one["reward_extra_info"]["reason"] for one in results[0]} == {"unjudged"}, "the critic is not there"


def any_question(attempt: int, sent: dict[str, Any]) -> Any:
    """A model that is asked to compare, to score or to answer."""
    text = sent["messages"][0]["content"][1]["text"]
    if "Response 1:" in text:
        return larger(attempt, sent)
    return scores(attempt, sent) if "Response:" in text else answer(sent, boxed(2)[0])


@pytest.mark.parametrize("judge", ["url", "frozen", "self"])
@pytest.mark.parametrize(
    ("own", "rewards", "asked"),
    [
        ({"scheme": "pointwise"}, [0.19, 0.37, 0.28], 3),
        ({"scheme": "win_rate", "orders": "drawn"}, [0.1, 1.0, 0.55], 3),
        (GREEDY, [0.1, 1.0, 0.55], 4 + 1),
    ],
)
def test_every_question_reaches_every_judge(
    judge: str, own: dict[str, Any], rewards: list[float], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server is the critic, verl's router and the rollout server."""

    async def run() -> Any:
        place: dict[str, Any] = {} if judge == "url" else {"model": None}
        config = settings(server.url if judge == "url" else None, judge=judge, **place, **own)
        config.reward.reward_model.update(enable=judge == "frozen", enable_resource_pool=judge == "frozen")
        address = f"127.0.0.1:{server.port}"
        verls = worker(config, monkeypatch, address if judge == "frozen" else None)
        if asks_the_policy(config):
            use_rollout_servers(verls, [address])
        found = await verls.compute_score_batch(group(boxed(1, 3, 2)))
        for model in (*verls.reward_manager._critics, *verls.reward_manager._policies):
            await model.__aexit__()
        return found

    with RolloutServer(any_question) as server:
        results = asyncio.run(run())
    assert [result["reward_score"] for result in results] == pytest.approx(rewards)
    assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("says", "own", "columns", "cause"),
    [
        (lambda n, sent: answer(sent, "No box."), {}, {}, "the greedy response has no answer to compare with"),
        (lambda n, sent: "404", {}, {}, "no greedy response: NotFoundError"),
        (lambda n, sent: "500", {"attempts": 2}, {}, "no greedy response: InternalServerError"),
        (lambda n, sent: "hang", {"wait_seconds": 0.3}, {}, "no greedy response within 0.3 seconds"),
        (
            lambda n, sent: answer(sent, boxed(2)[0]),
            {"wait_seconds": 0.3},
            {"group_size": 3},
            "2 of 3 responses within 0.3 seconds",
        ),
        (
            lambda n, sent: answer(sent, boxed(2)[0]),
            {},
            {"raw_prompt": [{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}]},
            "no greedy response: the prompt holds 'video'",
        ),
    ],
)
def test_without_a_greedy_response_the_group_is_unjudged(
    says: Any,
    own: dict[str, Any],
    columns: dict[str, Any],
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (results,), judged, _ = against_greedy(monkeypatch, [group(boxed(1, 3), **columns)], says, **own)
    assert [one["reward_score"] for one in results] == [0.0, 0.0]
    assert {one["reward_extra_info"]["reason"] for one in results} == {"unjudged"}
    assert judged == []
    assert cause in caplog.text


@pytest.mark.parametrize("own", [{"judge": "self", "url": None, "model": None}, GREEDY])
def test_without_its_servers_the_policy_judges_nothing(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> Any:
        verls = worker(settings(**own), monkeypatch)
        return await verls.compute_score_batch(group(boxed(1, 3)))

    with pytest.raises(RuntimeError, match="no rollout server"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((2, 1, 3), 0.5),  # 2 is right: above 1, below 3
        ((1, 2), 1.0),
        ((3, 2), 0.0),
        ((2, 2), None),
        ((1, 3), None),
    ],
)
def test_held_out_groups_are_judged_and_scored_by_the_truth(
    answers: tuple[int, ...], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, bodies = scored(monkeypatch, group(boxed(*answers), validate=True))
    assert [result["reward_score"] for result in results] == pytest.approx([1.0 if a == 2 else 0.1 for a in answers])
    assert {result["reward_extra_info"].get("judge_agreement") for result in results} == {expected}
    assert len(bodies) == len(set(answers)) * (len(set(answers)) - 1)
