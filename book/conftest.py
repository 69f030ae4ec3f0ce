"""Every notebook that nbval runs gets one more test, after its last cell: what it took of memory and time.

The limits are those of the smallest place where a reader may start it, Binder: 2 GiB, in which Jupyter itself has to
live too, and one processor. A notebook is to take less than a minute of an idle one and less than 1.2 GB. Here it may
take about half as much again: processor time grows on a machine on which other things run.
"""

import re
from pathlib import Path

import psutil
import pytest
from nbval.plugin import IPyNbFile

MEMORY, SECONDS = 1.7e9, 90


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Kernels start as they do for a reader, with nothing that says how many threads they may have."""
    with pytest.MonkeyPatch.context() as here:
        here.delenv("OMP_NUM_THREADS", raising=False)
        return (yield)


def pytest_collection_modifyitems(items):
    last = {item.parent: place for place, item in enumerate(items) if isinstance(item.parent, IPyNbFile)}
    for notebook, place in reversed(last.items()):
        items.insert(place + 1, Limits.from_parent(notebook, name="limits"))


class Limits(pytest.Item):
    """The peak of the kernel's memory, and its processor time, from its start to its last cell."""

    def runtest(self):
        kernel = psutil.Process(self.parent.kernel.km.provisioner.pid)
        status = Path(f"/proc/{kernel.pid}/status")
        if not status.exists():
            pytest.skip("only Linux says how much memory a process has had at most")
        peak = 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))[1])
        seconds = sum(kernel.cpu_times())
        print(f"{peak / 1e9:.2f} GB, {seconds:.0f} s")  # pytest -rP shows it
        assert peak <= MEMORY and seconds <= SECONDS, (
            f"{self.path.name} took {peak / 1e9:.2f} GB (at most {MEMORY / 1e9} GB are allowed) "
            f"and {seconds:.0f} s of a processor (at most {SECONDS} s)"
        )

    def repr_failure(self, excinfo):
        return str(excinfo.value)

    def reportinfo(self):
        return self.path, None, f"{self.path.name}: limits"
