"""Options that several commands share, and the connection to a server that they describe."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recipe.critic_r1.cli.output import warn
from recipe.critic_r1.judging.address import Address, choose_key, proxy_note
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator

Model = Annotated[str, typer.Option(help="Name by which the server knows the model.")]
BaseUrl = Annotated[str, typer.Option(help="Address of the server, such as http://127.0.0.1:8000/v1.")]
Out = Annotated[Path, typer.Option(help="Output folder: results, and the journal of answers that makes runs resume.")]
ApiKey = Annotated[
    str,
    typer.Option(
        help="API key of the server. Default: $CRITIC_R1_API_KEY; else $OPENAI_API_KEY if the address is https."
    ),
]
Concurrency = Annotated[int, typer.Option(help="Maximum number of requests in flight.")]
Timeout = Annotated[float, typer.Option(help="Seconds after which an attempt at a request is given up.")]
MaxTokens = Annotated[int, typer.Option(help="Maximum length of an answer in tokens, thoughts included.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling, of tournament draws and of the bootstrap.")]
Verdicts = Annotated[
    Literal["strict", "lenient"],
    typer.Option(
        help="How verdicts are read: strict accepts \\boxed{1} after the thoughts; lenient also accepts the forms and"
        " think tags of third-party models."
    ),
]
Shown = Annotated[
    Literal["answer", "response"],
    typer.Option(help="What the critic compares: final answers, or whole responses."),
]
Template = Annotated[str, typer.Option(help="Prompt template of the critic.")]
ImageRoot = Annotated[list[str] | None, typer.Option(help="Folder or zip file with the images. Repeatable.")]
Prefilled = Annotated[
    bool | None,
    typer.Option(
        "--prefilled/--no-prefilled",
        help="The chat template already writes <think>, so answers begin inside the thoughts. Default: read from the"
        " template if --model is a local folder, else no.",
        show_default=False,
    ),
]
Request = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=JSON", help="Set a field of each request, or leave one out with NAME=null. Repeatable."),
]

FAULTS = (ValueError, OSError, RuntimeError)
"""What ends a command with one line."""


def connect(
    model: str,
    url: str,
    *,
    key: str,
    journal: Journal,
    concurrency: int,
    timeout: float,
    request: Sequence[str] | None,
) -> OpenAIGenerator:
    """A client for a server, after what has to be said about the way to it.

    Raises:
        ValueError: the address, a field of --request or --concurrency is impossible.
    """
    if note := proxy_note(url):
        warn(note)
    return OpenAIGenerator(
        model,
        url,
        api_key=choose_key(key, url, warn),
        journal=journal,
        concurrency=concurrency,
        timeout=timeout,
        extra_body=request_fields(request or ()),
    )


def key_for(given: str, url: str, other: str) -> str:
    """The key given for the server at `url`, for use at `other`: only if that is the same host."""
    return given if not other or Address(other).host == Address(url).host else ""


def request_fields(given: Iterable[str]) -> dict[str, Any]:
    """The fields of --request; a value that is not JSON is a text.

    Raises:
        ValueError: one has no name.

    >>> request_fields(["temperature=null", "reasoning_effort=low", 'chat_template_kwargs={"thinking": true}'])
    {'temperature': None, 'reasoning_effort': 'low', 'chat_template_kwargs': {'thinking': True}}
    """
    fields: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--request {text!r} is not NAME=VALUE")
        try:
            fields[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            fields[name.strip()] = value
    return fields


def is_prefilled(given: bool | None, model: str) -> bool:
    """Whether the chat template writes `<think>`: as given, or as a local model's template says."""
    if given is not None:
        return given
    folder = Path(model).expanduser()
    return folder.is_dir() and writes_think(chat_template(folder))


def chat_template(folder: Path) -> str:
    """The chat template of a model folder; empty when there is none that can be read."""
    try:
        path = folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
            path = folder / name
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
            if isinstance(found, str):
                return found
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        warn(f"{folder} has no readable chat template ({error}): give --prefilled or --no-prefilled")
    return ""


def writes_think(template: str) -> bool:
    r"""Whether the part of a template that opens an answer opens a think block, too, and leaves it open.

    The template is read, not rendered: it is a program of whoever made the model.

    >>> writes_think("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}")
    True
    >>> writes_think("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>' }}{% endif %}")
    False
    """
    _, found, tail = template.rpartition("add_generation_prompt")
    return bool(found) and "<think>" in re.sub(r"<think>(?:\s|\\n)*</think>", "", tail)


def tell(generators: Iterable[OpenAIGenerator]) -> None:
    """Say what servers did not take, and which error was the most frequent."""
    errors: Counter[str] = Counter()
    changes: dict[str, str] = {}
    for generator in generators:
        errors += generator.errors
        changes |= generator.changes
    for name, change in changes.items():
        warn(f"the server does not take the field {name!r} as asked: {change}")
    for message, count in errors.most_common(1):
        warn(f"most frequent error, {count} of {errors.total()}: {message}")


def close(failed: int, unanswerable: Counter[str], asked: int, what: str = "requests") -> None:
    """Say which requests have no answer, and end with status 1 where the results are not those of the data.

    Args:
        failed: requests that the same command would ask again.
        unanswerable: requests that no run will get an answer to, by reason.
        asked: all of them.
        what: what is counted.

    Raises:
        typer.Exit: with status 1 when a request failed, or when nothing was answered.
    """
    if lost := unanswerable.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(unanswerable.items()))
        warn(f"{lost} of {asked} {what} cannot be answered ({reasons}): the metrics leave them out")
    if failed:
        warn(f"{failed} of {asked} {what} failed: run the same command again; answers so far are kept")
    if failed or (asked and lost == asked):
        raise typer.Exit(1)
