"""`make fuzz N=1000`: whole programs, compiled and compared with eager and float64.

Works through a row of programs in chunks, one process per core, and remembers finished chunks: the
same command goes on where it was stopped. With --resume what was right at an earlier commit is
counted as well, also what bench/results/fuzz.json holds; the outcome names every commit. Writes
that file and docs/fuzz.md; what fails is reduced to a script that runs alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bench import result_file
from tests.fuzz import chunk, page
from tests.fuzz.tally import Failure, Tally
from tests.lint.source_tree import ROOT

SIZE = 250
"""Programs in a chunk, which is one process."""
FOLDER = ROOT / ".cache" / "fuzz"
OUTCOME = result_file.RESULTS / "fuzz.json"


def main() -> int:
    """1 where a program went wrong."""
    arguments = parsed()
    folder = FOLDER / f"{at_commit()}-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    found = saved_before(arguments)
    first = found.programs
    for part in chunks(arguments, folder, first):
        found.merge(part)
        for failure in part.failures:
            print(
                f"{failure.kind}: {failure.text.splitlines()[0][:120]}\n  {saved(failure, folder)}"
            )
        print(f"{found.programs} of {arguments.programs}: {summary(found)}", flush=True)
    path = write(found, arguments)
    print(f"saved {path.relative_to(ROOT)}")
    return bool(found.failures)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("programs", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the row of programs")
    parser.add_argument("--resume", action="store_true", help="count what was right before")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", type=int, metavar="NUMBER", help="show one program of the row")
    arguments = parser.parse_args()
    if arguments.one is not None:
        program, way, result = chunk.again(arguments.seed, arguments.one)
        print(program.source, way, result.verdict, sep="\n")
        sys.exit(not result.verdict.right)
    return arguments


def saved_before(arguments: argparse.Namespace) -> Tally:
    """The first programs of this row, where the file of results says that all were right."""
    if arguments.resume and OUTCOME.is_file():
        content = json.loads(OUTCOME.read_text(encoding="utf-8"))
        if content["seed"] == arguments.seed and not content["tally"]["failures"]:
            return Tally.from_json(content["tally"])
    return Tally()


def finished(arguments: argparse.Namespace, folder: Path, start: int) -> Tally | None:
    """The chunk of an earlier run, at this commit or, with --resume, a right one of another."""
    path = folder / f"{start:08}.json"
    others = FOLDER.glob(f"*-{arguments.seed}/{path.name}") if arguments.resume else ()
    for one in (path, *others):
        if one.is_file():
            part = Tally.from_json(json.loads(one.read_text(encoding="utf-8")))
            if one == path or not part.failures:
                return part
    return None


def chunks(arguments: argparse.Namespace, folder: Path, first: int) -> Iterator[Tally]:
    """The results of all chunks from that program on, those of an earlier run first."""
    starts = range(first, arguments.programs, SIZE)
    earlier = {start: finished(arguments, folder, start) for start in starts}
    known = {start: part for start, part in earlier.items() if part is not None}
    yield from known.values()
    with concurrent.futures.ThreadPoolExecutor(arguments.processes) as threads:
        waiting = {
            threads.submit(
                in_a_process, arguments.seed, range(start, min(start + SIZE, arguments.programs))
            ): start
            for start in starts
            if start not in known
        }
        for future in concurrent.futures.as_completed(waiting):
            part = future.result()
            part.commits[at_commit()] = part.programs
            result_file.write(folder / f"{waiting[future]:08}.json", part.to_json())
            yield part


def at_commit() -> str:
    """The commit, shortened, with "+changes" where there are some."""
    name, plus, changes = result_file.commit().partition("+")
    return name[:12] + plus + changes


def in_a_process(seed: int, numbers: range) -> Tally:
    """A process of its own, so that nothing grows and a crash names the chunk.

    Not a pool with max_tasks_per_child, which can wait for ever, from Python 3.11 to at least 3.14
    (python/cpython#115634).
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
        try:
            return process.submit(chunk.tally, seed, numbers).result()
        except BrokenProcessPool as error:
            where = f"programs {numbers.start} to {numbers.stop - 1} of seed {seed}"
            raise RuntimeError(f"the process died that ran {where}; one of them crashes") from error


def saved(failure: Failure, folder: Path) -> Path:
    """The script of a failure as a file."""
    path = folder / f"{failure.kind.replace(' ', '_')}-{failure.number}.py"
    path.write_text(failure.script, encoding="utf-8")
    return path


def summary(found: Tally) -> str:
    sites = sum(found.rewritten.values())
    verdicts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.verdicts.items()))
    return f"{verdicts}; {sites} sites rewritten"


def write(found: Tally, arguments: argparse.Namespace) -> Path:
    words = ("make", "fuzz", f"N={arguments.programs}", f"SEED={arguments.seed}")
    facts = {"command": shlex.join(words), "seed": arguments.seed, "tally": found.to_json()}
    path = result_file.save(OUTCOME.stem, found.by_fusion(), **facts)
    page.PAGE.write_text(page.written(json.loads(path.read_text("utf-8"))), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
