"""Mathematical equality by math-verify, in a child process that can be killed.

    python -m distill.base.judge.equality   the child: JSON [gold, answer] in; true, false or null (undecided) out

math-verify guards itself with signals, which fail in threads and leave hangs; here the parent waits with a
deadline and kills. One child serves a process for all its comparisons.
"""

from __future__ import annotations

import atexit
import json
import resource
import select
import subprocess
import sys
import threading

TIMEOUT_SECONDS = 5.0  # math-verify's own default for one comparison
START_SECONDS = 60.0  # importing sympy on a busy machine
CHILD_MEMORY_BYTES = 2 * 1024**3

_VERDICTS = {b"true": ("right", "equal formulas"), b"false": ("wrong", "not equal formulas")}

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def compare(gold: str, answer: str) -> tuple[str, str]:
    """Verdict and reason: right, wrong, or unknown when no verdict came in time."""
    global _child
    with _lock:
        try:
            if _child is None or _child.poll() is not None:
                _child = _start()
            _child.stdin.write(json.dumps([gold, answer]).encode() + b"\n")  # type: ignore[union-attr]
            _child.stdin.flush()  # type: ignore[union-attr]
            line = _read_line(_child, TIMEOUT_SECONDS)
        except (BrokenPipeError, EOFError):
            stop()
            return "unknown", "the equality check died"
        if line is None:
            stop()
            return "unknown", f"the equality check took over {TIMEOUT_SECONDS:g} s"
    return _VERDICTS.get(line, ("unknown", "the formulas cannot be read or compared"))


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "distill.base.judge.equality"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if _read_line(child, START_SECONDS) != b"ready":
        raise EOFError("the equality check did not start")
    return child


def _read_line(child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    if not ready:
        return None
    line = child.stdout.readline()
    if not line:
        raise EOFError
    return line.strip()


def stop() -> None:
    """Kill the child, if any; the next comparison starts a new one."""
    global _child
    if _child is not None:
        _child.kill()
        _child.communicate()
        _child = None


atexit.register(stop)


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))
    from distill.base.judge import algebra

    algebra.equal("x", "x + 1")  # the first use builds the parser's tables
    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            verdict = algebra.equal(gold, answer)
        except MemoryError:
            return  # the parent takes it for a death and starts anew
        except Exception:  # noqa: BLE001 - sympy raises many kinds, and the next comparison may be sound
            verdict = None
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    _serve()
