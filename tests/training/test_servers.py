"""One question to the load balancer for the rollouts of a prompt, against verl's own balancer."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from recipe.critic_r1.rollout.servers import OneServerPerPrompt

CONFIG = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm", "response_length": 8}}})


class Remote:
    """An actor: each method gets `.remote`, which answers later."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1

            async def answer() -> Any:
                await asyncio.sleep(0.001)
                found = getattr(self.inner, name)(*args, **kwargs)
                return await found if asyncio.iscoroutine(found) else found

            return asyncio.ensure_future(answer())

        return SimpleNamespace(remote=remote)


class Server:
    def __init__(self, name: str, broken: bool = False) -> None:
        self.name, self.broken, self.prompts = name, broken, Counter[int]()

    async def generate(self, prompt_ids: list[int], **request: Any) -> TokenOutput:
        self.prompts[prompt_ids[0]] += 1
        await asyncio.sleep(0.005)
        if self.broken:
            raise RuntimeError("the server broke")
        return TokenOutput(token_ids=[1], log_probs=[0.0], extra_fields={"global_steps": 1})


def made(servers: list[Server]) -> tuple[Any, Remote]:
    balancer = Remote(GlobalRequestLoadBalancer({server.name: Remote(server) for server in servers}))
    return OneServerPerPrompt.instead_of(LLMServerClient(CONFIG, balancer)), balancer


async def rolled_out(client: Any, prompts: int, n: int) -> list[Any]:
    requests = [
        client.generate(f"prompt {prompt}", prompt_ids=[prompt], sampling_params={})
        for prompt in range(prompts)
        for _ in range(n)
    ]
    done = await asyncio.gather(*requests, return_exceptions=True)
    await asyncio.sleep(0.05)  # releases are sent and not waited for
    return done


def test_the_rollouts_of_a_prompt_share_a_server() -> None:
    servers = [Server(f"s{i}") for i in range(4)]
    client, balancer = made(servers)
    asyncio.run(rolled_out(client, prompts=16, n=8))
    for prompt in range(16):
        assert sorted(server.prompts[prompt] for server in servers) == [0, 0, 0, 8]
    # Prompts are spread evenly.
    assert [len(server.prompts) for server in servers] == [4] * 4
    assert balancer.calls["acquire_server"] == balancer.calls["release_server"] == 16
    assert set(balancer.inner._inflight_requests.values()) == {0}
    assert client._lent == {}


def test_a_prompt_that_comes_again_is_asked_for_again() -> None:
    client, balancer = made([Server("s")])

    async def twice() -> None:
        await rolled_out(client, 1, 2)
        await rolled_out(client, 1, 2)

    asyncio.run(twice())
    assert balancer.calls["acquire_server"] == 2


def test_errors_give_the_server_back() -> None:
    client, balancer = made([Server("s", broken=True)])
    done = asyncio.run(rolled_out(client, prompts=3, n=4))
    assert [str(error) for error in done] == ["the server broke"] * 12
    assert set(balancer.inner._inflight_requests.values()) == {0}
    assert client._lent == {}


def test_no_server_is_an_error_of_every_rollout() -> None:
    client, balancer = made([])
    done = asyncio.run(rolled_out(client, prompts=2, n=3))
    assert ["No available servers" in str(error) for error in done] == [True] * 6
    assert client._lent == {}
    assert balancer.calls["release_server"] == 0


def test_a_cancelled_rollout_leaves_the_others_their_server() -> None:
    client, balancer = made([Server("s")])

    async def run() -> list[Any]:
        first, *others = [
            asyncio.ensure_future(client.generate("p", prompt_ids=[0], sampling_params={})) for _ in range(4)
        ]
        await asyncio.sleep(0)
        first.cancel()
        done = await asyncio.gather(first, *others, return_exceptions=True)
        await asyncio.sleep(0.05)
        return done

    done = asyncio.run(run())
    assert isinstance(done[0], asyncio.CancelledError)
    assert [type(output) for output in done[1:]] == [TokenOutput] * 3
    assert set(balancer.inner._inflight_requests.values()) == {0}


@pytest.mark.parametrize("client", [FullyAsyncLLMServerClient(CONFIG, None), object()])
def test_other_clients_stay_as_they_are(client: Any) -> None:
    assert OneServerPerPrompt.instead_of(client) is client
