"""Chunks on a Dask cluster: many machines, or several processes of this one."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from companion import _jobs
from companion import _validation as check
from companion._jobs import PLAN, Chunk, Job

if TYPE_CHECKING:
    from distributed import Client, Future

# Tasks that the scheduler knows of at a time, or this many for each thread of a worker: enough to keep them all busy,
# and an adaptive cluster growing, while the scheduler's memory stays flat however many chunks there are.
_WAITING, _A_THREAD = 64, 4
# Attacks set switches of torch that hold for the whole process.
_one_at_a_time = threading.Lock()


@contextmanager
def connected(scheduler: str | None = None, workers: int = 1) -> Iterator[Client | None]:
    """A client of the scheduler at an address, or of so many processes of this machine; None for this process alone.

    Raises:
        ImportError: Dask is not installed.
        OSError: no scheduler answers at the address.
        ValueError: it is no address, or fewer than one worker is wanted.
    """
    if scheduler is None and check.integer("workers", workers, minimum=1) == 1:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(
            "--scheduler and --workers need Dask: pip install 'adversarial-vulnerability[cluster]'"
        ) from error
    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    # Nothing is held back for its size: chunks are small, and what torch holds beside is not Dask's to spill.
    options: dict[str, Any] = dict(memory_limit=0, silence_logs=logging.CRITICAL, dashboard_address=":0")
    options["env"] = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with ExitStack() as stack:
        with _interrupts_later():
            cluster = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, **options))
            client = stack.enter_context(Client(cluster))

            async def end() -> None:
                await asyncio.gather(*(nanny.close(timeout=0.5) for nanny in cluster.workers.values()))

            # After an error nobody waits for chunks that are half done: what is written is whole.
            stack.push(lambda kind, *_: cluster.sync(end) if kind else None)
        yield client


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C inside is heard at the end. Processes started inside never hear it: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    resource_tracker.ensure_running()  # where it begins later, it lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which threads and processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spread(job: Job, indices: list[int], given: Any, client: Client) -> Iterator[Chunk]:
    """The chunks of the job, each when a worker has it. Left early, it cancels those that have not begun.

    A worker that ends in the middle of a chunk costs that chunk's work; another one begins it anew.
    """
    import cloudpickle
    import dask
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    # As bytes in a task of its own: workers pass it on to each other, and whoever is lost can be replaced.
    run = f"{job.name.replace(' ', '_')}-{secrets.token_hex(8)}"  # no task of another run is taken for one of this
    try:
        content = cloudpickle.dumps(given)
    except Exception as error:  # whatever the networks are made of raises what it likes
        raise ValueError(f"networks must be such that pickle can send them to workers, got {error!r}") from error
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):  # they are as large as they are
        # Under a name of another kind: the scheduler takes tasks of one kind to last alike, and this one is short. It
        # would leave all chunks with the worker that has the parcel.
        parcel = client.submit(cloudpickle.loads, content, key=f"given-{run}")

    def submit(index: int) -> Future[Chunk]:
        return client.submit(_on_a_worker, job, index, parcel, key=f"{run}-{index}")

    threads = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    rest, arriving = iter(indices), as_completed(loop=client.loop)
    for index in islice(rest, max(_WAITING, _A_THREAD * threads)):
        arriving.add(submit(index))
    try:
        for future in arriving:
            if future.status in ("cancelled", "lost"):
                raise ConnectionError(
                    "the scheduler was lost or has forgotten this run; "
                    "finished chunks are in the store, and the same command goes on with the others"
                )
            try:
                chunk: Chunk = future.result()
            except KilledWorker as error:
                raise ChildProcessError(
                    f"workers ended again and again over {error.task}, the last at {error.last_worker.address}, as "
                    "happens where memory runs out; fewer workers a machine or smaller chunks need less"
                ) from error
            for index in islice(rest, 1):
                arriving.add(submit(index))
            yield chunk
    finally:
        if client.status == "running":
            client.cancel([*arriving.futures, parcel])


def _on_a_worker(job: Job, index: int, given: Any) -> Chunk:
    """What a worker does for one chunk."""
    from distributed import get_worker

    name = f"worker {get_worker().address}"
    ours = _jobs.versions()
    for key, wanted in ((key, job.plan[key]) for key in ours):
        if ours[key] != wanted:
            what = "companion" if key == "version" else key
            raise ValueError(f"{name} has {what} {ours[key]}, and this run {wanted}; install the same version there")
    if job.store is not None and job.store.read(f"{job.address}/{PLAN}") is None:
        raise ValueError(
            f"{name} does not see the store {job.store.address!r}; it must be a folder that all machines share, or an "
            "address that all can reach, such as s3://bucket/folder"
        )
    with _one_at_a_time:
        try:
            job.check_weights()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return replace(job, given=given).work(index)
