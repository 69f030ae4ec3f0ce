"""How measurements grow on a Dask cluster of this machine: python -m tools.scale writes benchmarks/scale.md.

Each row of the table has a scheduler and workers of its own, started by hand as on other machines, so that peaks of
memory are its own. Rows that benchmarks/scale.json has already are kept; --fresh measures all again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cloudpickle
import torch
from distributed import Client
from tqdm.auto import tqdm

from companion import _files, _jobs, models, scale
from companion._jobs import Job
from companion._store import Store

HERE = Path(__file__).parents[1] / "benchmarks"
# What is measured, how many rows, workers, rows a chunk.
ROWS = [
    *(("labels", 10**power, 2, 10**5) for power in (3, 4, 5, 6, 7)),
    ("labels", 10**7, 1, 10**5),
    *(("moduli", 10**power, 2, 2_000) for power in (3, 4, 5)),
    ("moduli", 10**5, 1, 2_000),
    *(("radii", count, 2, 100) for count in (1_000, 5_000, 20_000)),
    ("radii", 5_000, 1, 100),
    ("nothing", 5_000, 2, 1),
]
MEBIBYTE = 2**20


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Client]:
    with tempfile.TemporaryDirectory() as folder:
        file = f"--scheduler-file={folder}/scheduler.json"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

        def start(name: str, *options: str) -> subprocess.Popen:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", file, "--no-dashboard", *options]
            return subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL)

        pieces = [start("scheduler", "--port=0", "--host=127.0.0.1")]
        pieces += [start("worker", "--nthreads=1", "--memory-limit=0", "--no-nanny") for _ in range(workers)]
        try:
            with Client(scheduler_file=f"{folder}/scheduler.json", timeout=60) as client:
                client.wait_for_workers(workers, timeout=60)
                yield client
        finally:
            for piece in pieces:
                piece.kill()
            for piece in pieces:
                piece.wait()


def nothing(job: Job, index: int) -> dict[str, torch.Tensor]:
    return {"x": torch.zeros(job.rows(index))}


def peak() -> float:
    """The largest memory of the process so far, in mebibytes. (Where resource.getrusage would count its parent's.)"""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def tasks(dask_scheduler) -> int:
    return len(dask_scheduler.tasks)


def a_job(what: str, samples: int, chunk: int, store: str) -> Job:
    if what == "nothing":
        return Job(what, nothing, {}, samples, chunk, Store(store), "cpu")
    networks = models.load("digits/generator"), models.load("digits/mlp")
    measure = scale._radii if what == "radii" else scale._census
    plan: dict = {"seed": 0, "steps": 8, "metric_steps": 2, "max_latent_norm": None, "restarts": 2}
    plan["t"] = [0.2] if what == "moduli" else []
    return Job(what, measure, plan, samples, chunk, Store(store), "cpu", given=networks)


def measured(what: str, samples: int, workers: int, chunk: int) -> dict:
    with tempfile.TemporaryDirectory() as store, cluster(workers) as client:
        client.run(models.load, "digits/generator")  # what every worker imports first is not timed
        job, known = a_job(what, samples, chunk, store), 0
        began, used = time.monotonic(), (client.run_on_scheduler(time.process_time), time.process_time())
        for count, _ in enumerate(_jobs.run(job, client=client, progress=True)):
            if count % 20 == 0:
                known = max(known, client.run_on_scheduler(tasks))
        seconds = time.monotonic() - began
        spent = client.run_on_scheduler(time.process_time) - used[0], time.process_time() - used[1]
        files = [path for path in Path(store).rglob("*") if path.is_file()]
        return {
            "seconds": seconds,
            "scheduler seconds": spent[0],
            "client seconds": spent[1],
            "worker MiB": max(client.run(peak).values()),
            "scheduler MiB": client.run_on_scheduler(peak),
            "tasks at a time": known,
            "bytes a task": len(cloudpickle.dumps((replace(job, given=None), 0))),
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
        }


def page(found: dict) -> str:
    """The tables in Markdown."""
    lines = [
        "| what | rows | chunk | workers | seconds | rows a second | worker | scheduler | tasks | store | files |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for what, samples, workers, chunk in ROWS:
        row = found["rows"].get(f"{what} {samples} {workers} {chunk}")
        if row:
            lines.append(
                f"| {what} | {samples:,} | {chunk:,} | {workers} | {row['seconds']:.1f} | "
                f"{samples / row['seconds']:,.0f} | {row['worker MiB']:.0f} MiB | {row['scheduler MiB']:.0f} MiB | "
                f"{row['tasks at a time']} | {size(row['bytes'])} | {row['files']:,} |"
            )
    lines += ["", f"Measured on {found['machine']}.", "", *paper(found["rows"])]
    return "\n".join([*lines, ""])


def paper(rows: dict) -> list[str]:
    """10⁹ latents on 10³ workers, each of which is so many times as fast as one of those measured."""
    row = rows["nothing 5000 2 1"]
    scheduler, client = (row[f"{which} seconds"] / 5_000 for which in ("scheduler", "client"))
    lines = [
        f"A chunk costs the scheduler {1000 * scheduler:.1f} ms of its processor, the client {1000 * client:.1f} ms. "
        "They hand out no more than one in the longer of these times. From this and the largest rows above follows, "
        "for 10⁹ latents on 1,000 workers that are as fast as those here, or a hundred times:",
        "",
        "| what | speed | chunk | chunks | computing | handing out | store, about |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for what, samples, chunk in (("labels", 10**7, 10**5), ("moduli", 10**5, 2_000), ("radii", 20_000, 100)):
        row = rows[f"{what} {samples} 2 {chunk}"]
        each, a_file = 2 * row["seconds"] / samples, row["bytes"] / row["files"]
        for speed, larger in ((1, 1), (100, 1), (100, 100)):
            chunks = 1e9 / (chunk * larger)
            # The files of `radii` grow with their rows, those of counts hardly.
            stored = chunks * a_file * (larger if what == "radii" else 1)
            computing, handing_out = 1e9 * each / speed / 1000, chunks * max(scheduler, client)
            lines.append(
                f"| {what} | {speed}× | {chunk * larger:,} | {chunks:,.0f} | {duration(computing)} | "
                f"{duration(handing_out)} | {size(stored)} |"
            )
    return lines


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(number: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number:.0f} B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="measure all rows again")
    options = parser.parse_args()
    path = HERE / "scale.json"
    found: dict = {"rows": {}} if options.fresh or not path.exists() else json.loads(path.read_text())
    machine = f"{os.cpu_count()} processors, {platform.machine()}"
    found["machine"] = f"{machine}, one thread a worker, with torch {torch.__version__}"
    for row in tqdm(ROWS, "rows"):
        key = " ".join(map(str, row))
        if key not in found["rows"]:
            found["rows"][key] = measured(*row)
            _files.write_json(path, found, indent=1)
    _files.write(HERE / "scale.md", page(found).encode())
    print(page(found))


if __name__ == "__main__":
    main()
