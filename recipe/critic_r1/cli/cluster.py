"""``critic-r1 submit``, ``status``, ``logs`` and ``stop``: training runs on a Ray cluster."""

import os
import sys
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(stderr=True)

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

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        status = sender.follow(jobs, job_id, write)
    except KeyboardInterrupt:
        console.print(
            f"\nThe job keeps running. `critic-r1 logs {job_id}` follows it again, `critic-r1 stop {job_id}` ends it."
        )
        raise typer.Exit(130) from None
    console.print(f"{job_id}: {status}", highlight=False)
    if status != "SUCCEEDED":
        message = jobs.get_job_info(job_id).message
        if message:
            console.print(message.strip().splitlines()[0], highlight=False, markup=False)
        raise typer.Exit(1)


def _or_exit(command: str, work: Any) -> Any:
    from recipe.critic_r1.launch import submit as sender

    try:
        return work()
    except typer.Exit:  # a RuntimeError as well
        raise
    except (sender.SubmitError, RuntimeError, ConnectionError) as error:
        console.print(f"[red]{command}:[/red] {escape(str(error).strip())}", highlight=False)
        raise typer.Exit(2) from error


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
    console.print(f"job {job.id}: {job.packed_bytes / 1e6:.1f} MB of code, with {', '.join(job.environment)}")
    console.print(job.entrypoint, highlight=False, markup=False)
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
        table.add_row(*(escape(str(cell)) for cell in (job.submission_id, job.status.value, started, job.entrypoint)))
    Console().print(table)


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
        sys.stdout.write(_or_exit("logs", lambda: jobs.get_job_logs(job_id)))


def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job. The same `submit` resumes from its last checkpoint."""
    jobs = _or_exit("stop", lambda: _jobs(address))
    ended = _or_exit("stop", lambda: jobs.stop_job(job_id))
    console.print(f"{job_id}: {'is being stopped' if ended else 'had ended already'}", highlight=False)


def register(app: typer.Typer) -> None:
    """Add the cluster commands to ``app``."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)
