"""Shared by all tests: no network, and the command line as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from distill.cli import main

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "students" / "embedded"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`distill ARGUMENTS...` in the project's folder: in this process, where libraries are loaded once."""

    def call(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return subprocess.CompletedProcess(sys.argv, status, *capsys.readouterr())

    return call


def call(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """`distill ARGUMENTS...` in a process of its own."""
    command = [sys.executable, "-m", "distill.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def start(*arguments: str | Path) -> "subprocess.Popen[bytes]":
    """`distill ARGUMENTS...` in the background."""
    command = [sys.executable, "-m", "distill.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """kill -9 of a process and everything that it started."""
    tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree, timeout=30)
    process.wait()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests in this process that need one."""
    from data_gen.pool import ray_running

    with ray_running(None):
        yield
