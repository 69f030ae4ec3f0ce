"""What is published: the source distribution and the wheel, built from what git knows."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import companion

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import floors  # noqa: E402
import release  # noqa: E402

NAME = f"adversarial_vulnerability-{companion.__version__}"


@pytest.fixture(scope="module")
def tracked():
    """The paths of all files of the repository."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not in a git repository, so what belongs into a distribution is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """A folder with both distributions, made from a copy: building leaves things beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    build = "import sys; from setuptools.build_meta import build_sdist, build_wheel\n"
    build += "out = sys.argv[1]; build_sdist(out); build_wheel(out)"
    done = subprocess.run([sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


def test_the_source_distribution_holds_the_whole_repository(built, tracked):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert tracked - names == set()
    made = {name for name in names - tracked if not (name.endswith(".egg-info") or ".egg-info/" in name)}
    assert {name for name in made if not any(path.startswith(f"{name}/") for path in tracked)} <= {
        NAME, "PKG-INFO", "setup.cfg"
    }  # fmt: skip


def test_the_wheel_holds_the_package_and_nothing_else(wheel, tracked):
    package = {name for name in tracked if name.startswith("companion/")}
    info = {name for name in wheel.namelist() if name.startswith(f"{NAME}.dist-info/")}
    assert set(wheel.namelist()) == package | info
    assert "companion/py.typed" in package


def test_the_wheel_says_under_which_licences_it_is(wheel):
    said = email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
    assert said["License-Expression"] == "MIT AND CC-BY-4.0"
    for name in ("LICENSE", "LICENSE-book", "companion/scans/LICENSE"):
        notice = wheel.read(f"{NAME}.dist-info/licenses/{name}")
        assert notice == (ROOT / name).read_bytes()
        assert name in said.get_all("License-File")
    assert "Kaynak" in (ROOT / "companion/scans/LICENSE").read_text(encoding="utf-8")


def test_the_index_page_has_no_link_into_the_repository(wheel):
    """On an index page a relative link or picture leads nowhere."""
    text = email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA")).get_payload()
    assert text.startswith("# Adversarial vulnerability")
    targets = re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', text)
    found = ["".join(target) for target in targets]
    assert len(found) >= 5
    assert [target for target in found if not target.startswith("https://")] == []
    # What it links to in the repository is there.
    for path in re.findall(r"adversarial-vulnerability/(?:blob/)?main/([^)\"]+)", text):
        assert (ROOT / path).exists(), path


def test_the_wheel_imports_alone(built, tmp_path):
    """Unpacked elsewhere, it has all files that it reads."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(tmp_path)
    code = (
        "import companion, companion.experiments as e; from companion import arms_race, certificates, data, models\n"
        "print(companion.__file__, companion.__version__)\n"
        "[models.load(name) for name in models.names()]\n"
        "arms_race.load('digits'), e.stored('cifar10'), data.held_out_digits()\n"
        "certificates.load_multipliers('digits/generator')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(tmp_path / "companion" / "__init__.py"), companion.__version__]


CHANGES = "# Changes\n\n## 1.0.0, 2026-01-31\n\n- New.\n\n## 0.9.0, 2025-01-31\n\n- Old.\n"


def test_a_release_needs_one_version_everywhere_and_a_date():
    assert release.notes("v1.0.0", "1.0.0", "a: b\nversion: 1.0.0\n", CHANGES) == "- New.\n"
    for tag, version, cited, changes in [
        ("v1.0.1", "1.0.0", "\nversion: 1.0.0\n", CHANGES),
        ("1.0.0", "1.0.0", "\nversion: 1.0.0\n", CHANGES),
        ("v1.0.0", "1.0.0", "\nversion: 0.9.0\n", CHANGES),
        ("v1.0.0", "1.0.0", "\nversion: 1.0.0\n", CHANGES.replace("2026-01-31", "not yet released")),
        ("v1.1.0", "1.1.0", "\nversion: 1.1.0\n", CHANGES),
    ]:
        with pytest.raises(ValueError):
            release.notes(tag, version, cited, changes)


def test_the_oldest_versions_are_those_that_the_project_names():
    assert floors.floors(["torch>=2.6", "numpy>=2.0"]) == ["torch==2.6", "numpy==2.0"]
