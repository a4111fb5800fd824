"""Probes many types in a few worker processes, each answer within a time limit.

Results are kept on disk as they come, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SECONDS_FOR_ONE = 600


class Worker:
    """One process; `ask` returns its answer, or a row that says what became of it."""

    def __init__(self) -> None:
        self.process = self.started()

    @staticmethod
    def started() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.coverage.worker"]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, model_type: str) -> dict[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        late = threading.Timer(SECONDS_FOR_ONE, self.process.kill)
        late.start()
        try:
            stdin.write(model_type + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self.process.wait()
        self.process = self.started()
        error = f"the process ended with status {status} (limit {SECONDS_FOR_ONE} s)"
        return {"type": model_type, "status": "stopped", "error": error}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def serve(todo: queue.SimpleQueue[str], folder: Path) -> None:
    worker = Worker()
    try:
        while not todo.empty():
            try:
                model_type = todo.get_nowait()
            except queue.Empty:
                break
            row = worker.ask(model_type)
            (folder / f"{model_type}.json").write_text(json.dumps(row), encoding="utf-8")
            print(
                model_type,
                row.get("error") or row.get("difference") or row.get("calls"),
                flush=True,
            )
    finally:
        worker.close()


def probe_all(
    types: Iterable[str], folder: Path, processes: int, resume: bool
) -> list[dict[str, Any]]:
    """The rows of all types in order; `resume` keeps rows already in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    types = list(types)
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for model_type in types:
        if not (resume and (folder / f"{model_type}.json").exists()):
            todo.put(model_type)
    threads = [threading.Thread(target=serve, args=(todo, folder)) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [json.loads((folder / f"{t}.json").read_text(encoding="utf-8")) for t in types]
