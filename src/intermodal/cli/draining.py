"""`intermodal drain` and `undrain`: a worker without containers, to repair or restart its machine."""

from __future__ import annotations

import click

from intermodal.cli.asking import ask
from modal._protocol.messages.fleet import DrainAwait, DrainedWorker, WorkerDrain, WorkersDrained, WorkerUndrain

STEP = 30.0  # seconds that one question waits for an answer


@click.command()
@click.argument("worker", default="")
@click.option(
    "--patience",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0.0, 7 * 86400.0),
    metavar="SECONDS",
    help="How long inputs may go on before their containers are preempted.",
)
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the worker is empty.")
def drain(worker: str, patience: float, detach: bool) -> None:
    """Take all containers from a worker, and give it no new ones.

    WORKER is its id or its host name (`intermodal status`); with a single worker it may be left out. Containers get no
    more inputs. What still runs after --patience is preempted: interrupted, with 30 seconds for exit handlers. Its
    inputs start anew on another worker, or wait until `intermodal undrain`.

    Waits until the worker is empty; Ctrl-C ends the waiting alone. The worker stays drained, also when it or the
    server is started again.
    """
    (found,) = ask(WorkerDrain(worker, patience), WorkersDrained).workers
    click.echo(f"{name_of(found)} is drained, {containers(found)} left.")
    while found.containers and not detach:
        before = found.containers
        now = ask(DrainAwait(STEP, [found.worker_id]), WorkersDrained).workers
        if not now:
            raise click.ClickException(f"{name_of(found)} is drained no more: somebody wants it to work again")
        found = now[0]
        if found.containers != before:
            click.echo(f"{containers(found)} left.")


def containers(worker: DrainedWorker) -> str:
    """How many it has, for people."""
    return "no containers" if not worker.containers else f"{worker.containers} container{'s' * (worker.containers > 1)}"


@click.command()
@click.argument("worker", default="")
def undrain(worker: str) -> None:
    """Let a drained worker have containers again. WORKER as for `drain`."""
    still = ask(WorkerUndrain(worker), WorkersDrained).workers
    click.echo("The worker gets containers again.")
    if still:
        click.echo(f"Still drained: {', '.join(map(name_of, still))}")


def name_of(worker: DrainedWorker) -> str:
    """How people know it."""
    return f"{worker.worker_id} ({worker.hostname})" if worker.hostname else worker.worker_id
