"""All rollouts of a prompt as one request, against verl's own load balancer."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from recipe.critic_r1.rollout.client import OneRequestPerPrompt, TimedOutput, rolled_out, timed

CONFIG = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm", "response_length": 8}}})


class Remote:
    """An actor: each of its methods gets `.remote`, which answers later."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def remote(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1

            async def answer() -> Any:
                await asyncio.sleep(0.001)
                found = method(*args, **kwargs)
                return await found if asyncio.iscoroutine(found) else found

            return asyncio.ensure_future(answer())

        return SimpleNamespace(remote=remote)


class OtherServer:
    """A rollout server as verl has it; the rollout whose sampling parameters say so breaks."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, str, dict[str, Any]]] = []

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **request: Any
    ) -> TokenOutput:
        self.requests.append((prompt_ids[0], request_id, request))
        await asyncio.sleep(0.005)
        if sampling_params.get("broken"):
            raise RuntimeError("the server broke")
        token = sampling_params.get("token", 1)
        return TokenOutput(token_ids=[token], log_probs=[0.0], extra_fields={"global_steps": 1})


class GroupServer(OtherServer):
    """One with the method of `group_server.GroupServer`."""

    async def generate_group(
        self, ids: list[str], prompt_ids: list[int], each: list[dict[str, Any]], **request: Any
    ) -> Any:
        outputs = [timed(self.generate(prompt_ids, s, i, **request)) for i, s in zip(ids, each, strict=True)]
        return await asyncio.gather(*outputs, return_exceptions=True)


def made(servers: list[OtherServer]) -> tuple[Any, Remote, list[Remote]]:
    actors = [Remote(server) for server in servers]
    balancer = Remote(GlobalRequestLoadBalancer({f"s{i}": actor for i, actor in enumerate(actors)}))
    return OneRequestPerPrompt.instead_of(LLMServerClient(CONFIG, balancer)), balancer, actors


async def ask(client: Any, prompts: int, n: int, **sampling: Any) -> list[Any]:
    groups = [rolled_out(client, f"prompt {p}", n, sampling, prompt_ids=[p], priority=0) for p in range(prompts)]
    done = await asyncio.gather(*groups, return_exceptions=True)
    await asyncio.sleep(0.05)  # releases are sent and not waited for
    return done


@pytest.mark.parametrize("kind", [GroupServer, OtherServer])
def test_the_rollouts_of_a_prompt_share_a_server(kind: type[OtherServer]) -> None:
    servers = [kind() for _ in range(4)]
    client, balancer, actors = made(servers)
    asyncio.run(ask(client, prompts=16, n=8))
    for prompt in range(16):
        assert sorted(sum(p == prompt for p, _, _ in server.requests) for server in servers) == [0, 0, 0, 8]
    # Prompts are spread evenly, and every rollout is a request of its own for the engine.
    assert [len(server.requests) for server in servers] == [32] * 4
    assert len({request_id for server in servers for _, request_id, _ in server.requests}) == 128
    assert set(balancer.inner._inflight_requests.values()) == {0}
    assert sum((actor.calls for actor in actors), Counter()) == (
        {"generate_group": 16} if kind is GroupServer else {"generate": 128}
    )


def test_a_prompt_costs_three_calls() -> None:
    client, balancer, _ = made([GroupServer()])
    asyncio.run(ask(client, prompts=3, n=8))
    assert balancer.calls["acquire_server"] == balancer.calls["release_server"] == 3


@pytest.mark.parametrize("kind", [GroupServer, OtherServer])
def test_what_the_server_gets_and_gives(kind: type[OtherServer]) -> None:
    server = kind()
    client, _, _ = made([server])
    request = {"image_data": ["image"], "mm_processor_kwargs": {"a": 1}, "priority": 3}
    each = [{"token": 7}, {"token": 8, "broken": True}, {"token": 9}]
    found: list[TimedOutput] = asyncio.run(client.generate_group("p", prompt_ids=[5], sampling_params=each, **request))
    assert isinstance(found[1], RuntimeError)
    for rollout, token in ((found[0], 7), (found[2], 9)):
        assert isinstance(rollout, tuple)
        output, seconds = rollout
        assert output.token_ids == [token]
        assert 0 < seconds < 1
        assert {output.extra_fields[f"{end}_global_steps"] for end in ("min", "max")} == {1}
    assert [given for _, _, given in server.requests if given.get("image_data")] == [server.requests[0][2]] * 3
    assert server.requests[0][2].items() >= request.items()


@pytest.mark.parametrize("kind", [GroupServer, OtherServer])
def test_errors_give_the_server_back(kind: type[OtherServer]) -> None:
    client, balancer, _ = made([kind()])
    done = asyncio.run(ask(client, prompts=3, n=4, broken=True))
    assert [str(error) for group in done for error in group] == ["the server broke"] * 12
    assert set(balancer.inner._inflight_requests.values()) == {0}


def test_a_server_that_dies_gives_itself_back() -> None:
    class Dying(GroupServer):
        async def generate_group(self, *args: Any, **request: Any) -> Any:
            raise ConnectionError("the actor died")

    client, balancer, _ = made([Dying()])
    done = asyncio.run(ask(client, prompts=2, n=4))
    assert [str(error) for error in done] == ["the actor died"] * 2
    assert set(balancer.inner._inflight_requests.values()) == {0}


def test_no_server_is_an_error_of_the_prompt() -> None:
    client, balancer, _ = made([])
    done = asyncio.run(ask(client, prompts=2, n=3))
    assert ["No available servers" in str(error) for error in done] == [True] * 2
    assert balancer.calls["release_server"] == 0


@pytest.mark.parametrize("client", [FullyAsyncLLMServerClient(CONFIG, None), object()])
def test_other_clients_stay_as_they_are(client: Any) -> None:
    assert OneRequestPerPrompt.instead_of(client) is client


def test_other_clients_are_asked_for_each_rollout() -> None:
    server = GroupServer()
    _, balancer, _ = made([server])
    done = asyncio.run(ask(FullyAsyncLLMServerClient(CONFIG, balancer), prompts=2, n=3))
    assert [[output.token_ids for output, _ in group] for group in done] == [[[1]] * 3] * 2
    assert len(server.requests) == 6
