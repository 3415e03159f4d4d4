"""``critic-r1 submit``, ``status``, ``logs`` and ``stop``: training runs on a Ray cluster."""

import os
import re
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from data_prep.terminal import printable
from recipe.critic_r1.cli.output import cell, console, ending, warn

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Address = Annotated[
    str | None,
    typer.Option(help="Address of the cluster's dashboard, http://HEAD:8265 (default: $RAY_API_SERVER_ADDRESS)."),
]
JobId = Annotated[str, typer.Argument(help="Id of the job, as `critic-r1 submit` printed it.")]


def _jobs(address: str | None) -> Any:
    from recipe.critic_r1.launch import submit as sender

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise sender.SubmitError("which cluster? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    return sender.client(address)


def _follow(jobs: Any, job_id: str) -> None:
    from recipe.critic_r1.launch import submit as sender

    try:
        status = sender.follow(jobs, job_id, _write)
    except KeyboardInterrupt:
        warn(f"\nThe job keeps running. `critic-r1 logs {job_id}` follows it again, `critic-r1 stop {job_id}` ends it.")
        raise typer.Exit(130) from None
    warn(f"{job_id}: {status}")
    if status != "SUCCEEDED":
        message = jobs.get_job_info(job_id).message
        if message:
            warn(message.strip().splitlines()[0])
        raise typer.Exit(1)


def _write(text: str) -> None:
    """Show a piece of a job's output, of which colours are left out and line breaks stay."""
    uncoloured = _COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    typer.echo(printable(uncoloured), nl=False)


def _or_exit(command: str, work: Any) -> Any:
    from recipe.critic_r1.launch import submit as sender

    try:
        return work()
    except typer.Exit:  # a RuntimeError as well
        raise
    except (sender.SubmitError, RuntimeError, ConnectionError) as error:
        raise ending(f"{command}: {str(error).strip()}") from error


def submit(
    context: typer.Context,
    config_name: Annotated[str, typer.Argument(help="Name of a yaml file in recipe/critic_r1/config, such as r1.")],
    address: Address = None,
    job_id: Annotated[str | None, typer.Option(help="Id for the job (default: made by Ray).")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="Variable for the job, NAME or NAME=VALUE; visible in Ray's dashboard.")
    ] = None,
    python: Annotated[str, typer.Option(help="Python interpreter on the cluster.")] = "python",
    follow: Annotated[
        bool, typer.Option(help="Print the job's output until it ends, and exit with its status.")
    ] = True,
) -> None:
    """Send a training run to a Ray cluster and follow its log.

    Arguments of the form key=value override the configuration, as in Hydra. Only source files of this project are sent.
    """
    from recipe.critic_r1.launch import submit as sender

    def send() -> tuple[Any, Any]:
        jobs = _jobs(address)
        return jobs, sender.submit(jobs, config_name, context.args, python=python, job_id=job_id, env=env or ())

    jobs, job = _or_exit("submit", send)
    warn(f"job {job.id}: {job.packed_bytes / 1e6:.1f} MB of code, with {', '.join(job.environment)}")
    warn(job.entrypoint)
    if follow:
        _follow(jobs, job.id)


def status(
    job_id: Annotated[str | None, typer.Argument(help="Id of a job (default: all jobs).")] = None,
    address: Address = None,
) -> None:
    """Show the status of jobs: id, status, start time and command."""

    def look() -> list[Any]:
        jobs = _jobs(address)
        return [jobs.get_job_info(job_id)] if job_id else list(jobs.list_jobs())

    table = Table("job", "status", "started", "runs", box=None)
    found = [job for job in _or_exit("status", look) if job.submission_id]
    for job in sorted(found, key=lambda job: job.start_time or 0):
        started = datetime.fromtimestamp(job.start_time / 1000).isoformat(" ", "seconds") if job.start_time else ""
        table.add_row(*map(cell, (job.submission_id, job.status.value, started, job.entrypoint)))
    console.print(table)


def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option(help="Follow the output until the job ends, and exit with its status.")
    ] = True,
) -> None:
    """Print the output of a job."""
    jobs = _or_exit("logs", lambda: _jobs(address))
    if follow:
        _or_exit("logs", lambda: _follow(jobs, job_id))
    else:
        _write(_or_exit("logs", lambda: jobs.get_job_logs(job_id)))


def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job. The same `submit` resumes from its last checkpoint."""
    jobs = _or_exit("stop", lambda: _jobs(address))
    ended = _or_exit("stop", lambda: jobs.stop_job(job_id))
    warn(f"{job_id}: {'is being stopped' if ended else 'had ended already'}")


def register(app: typer.Typer) -> None:
    """Add the cluster commands to ``app``."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)
