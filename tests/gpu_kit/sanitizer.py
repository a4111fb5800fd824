"""compute-sanitizer watches one launch of each kind: no access outside of an allocation.

It is part of the CUDA toolkit; where it is missing the step says so and passes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from tests.gpu_kit.outcome import Outcome

COMMAND = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "86")
FOLDERS = ("/usr/local/cuda/bin", "/opt/nvidia/compute-sanitizer")
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) errors?")
LINES = 40


def run() -> Outcome:
    """One allocation per tensor, so that its end is an end."""
    program = shutil.which(COMMAND[0], path=os.pathsep.join((os.environ["PATH"], *FOLDERS)))
    if program is None:
        return Outcome(f"{COMMAND[0]} is not installed")
    result = subprocess.run(
        [program, *COMMAND[1:], sys.executable, "-m", "tests.gpu_kit.launches"],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return judged(result.returncode, result.stdout)


def judged(code: int, said: str) -> Outcome:
    """What its exit status and output mean."""
    found = SUMMARY.search(said)
    if code == 0 and found and found[1] == "0":
        return Outcome("no error found")
    told = [line for line in said.splitlines() if line.startswith("=========")] or said.splitlines()
    errors = f"{found[1]} errors" if found else f"it ended with status {code}"
    return Outcome(errors, ["\n".join(told[:LINES])])
