"""What CI does for tests in a browser: it installs one where it can, and says so where it cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "chromium"
SKIPPED = "tests of pages in a browser will be skipped"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the checkout")


def program(folder: Path, name: str, text: str = "") -> None:
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Programs of a machine without Chromium, whose user is root."""
    program(tmp_path, "id", "echo 0")
    program(tmp_path, "env", 'shift; "$@"')
    return tmp_path


def run(machine: Path) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("bash")), str(SCRIPT)]
    return subprocess.run(command, env={"PATH": str(machine)}, capture_output=True, text=True, timeout=60)


def test_a_machine_that_cannot_install_says_what_is_skipped(machine: Path) -> None:
    done = run(machine)
    assert (done.returncode, done.stdout) == (0, "")
    assert SKIPPED in done.stderr


def test_a_failing_installation_fails_nothing(machine: Path) -> None:
    program(machine, "apt-get", "echo no network >&2; exit 100")
    done = run(machine)
    assert done.returncode == 0
    assert "no network" in done.stderr
    assert SKIPPED in done.stderr


def test_chromium_is_installed_where_it_is_absent(machine: Path) -> None:
    installed = f"printf '#!{shutil.which('bash')}' > {machine}/chromium; {shutil.which('chmod')} +x {machine}/chromium"
    program(machine, "apt-get", f'echo "$@" >> {machine}/asked; [ "$1" = update ] || {{ {installed}; }}')
    done = run(machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    asked = (machine / "asked").read_text()
    assert "install" in asked
    assert " chromium " in asked
    run(machine)
    assert (machine / "asked").read_text() == asked  # what is there is not installed again
