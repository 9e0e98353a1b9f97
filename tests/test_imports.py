"""The import rule, held by the syntax tree; and a command line that starts at once."""

import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("data_gen", "distill.train", "students", "evals")
HEAVY = {
    "deepspeed": {"distill/train/engine.py"},
    "lm_eval": {"evals/harness.py"},
    "ray": {"data_gen/pool.py", "distill/train/launch.py"},
}
NOT_IN_BASE = {"torch", "ray", "deepspeed", "lm_eval", "datasets", "accelerate", "bitsandbytes", "peft"}
SLOW_TO_IMPORT = NOT_IN_BASE | {"transformers"}


def sources() -> list[Path]:
    return [path for top in ("distill", "data_gen", "students", "evals") for path in (ROOT / top).rglob("*.py")]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def test_rooms_never_import_each_other_and_base_imports_no_room() -> None:
    wrong = []
    for path in sources():
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if module in ("distill.pipeline", "distill.cli"):
            continue
        for name in imported(path):
            upward = name in ("distill.pipeline", "distill.cli")
            if upward or (room_of(name) is not None and room_of(name) != room_of(module)):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_a_heavy_library_has_one_file_a_room() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in imported(path)
        if name.split(".")[0] in HEAVY and path.relative_to(ROOT).as_posix() not in HEAVY[name.split(".")[0]]
    ]
    assert wrong == []


def test_base_is_light() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "distill" / "base").rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in NOT_IN_BASE
    ]
    assert wrong == []


def test_importing_the_pipeline_loads_nothing_heavy() -> None:
    heavy = sorted(SLOW_TO_IMPORT)
    code = f"import sys, distill.pipeline; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch_and_takes_at_most_ten_times_an_empty_python() -> None:
    code = "import sys, atexit, distill.cli; atexit.register(lambda: print(int('torch' in sys.modules)))"
    call = f"{code}; sys.argv = ['distill', '--help']; distill.cli.app()"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: distill" in done.stdout and done.stdout.rstrip().endswith("\n0")

    def median_seconds(arguments: list[str]) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    assert median_seconds(["-m", "distill.cli", "--help"]) <= 10 * median_seconds(["-c", "pass"])


def test_the_readmes_tree_names_every_file() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    unnamed = [path.name for path in sources() if path.name != "__init__.py" and path.stem not in tree]
    assert unnamed == []


def test_all_eight_given_packages_do_work_in_the_product() -> None:
    given = {"torch", "transformers", "datasets", "accelerate", "bitsandbytes", "deepspeed", "lm_eval", "ray"}
    found = {name.split(".")[0] for path in sources() for name in imported(path)}
    assert given <= found
