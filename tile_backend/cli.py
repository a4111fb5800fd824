"""The command line, `python -m tile_backend` and `tile-backend`: one function per command.

Exit codes: 0 done, 1 the request failed (one sentence on stderr), 2 wrong usage. Results go to
stdout, so that they can be piped.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tile_backend import cli_bench
from tile_backend.errors import TileBackendError
from tile_backend.version import VERSION

if TYPE_CHECKING:
    from tile_backend.report import Report
    from tile_backend.targets import Request, Target

TARGET_HELP = """\
TARGET is one of
  llama                    a model type of Transformers: a tiny random model, never downloaded
  path/to/folder           with a config.json: that model at its full size, without weights
  package.module:factory   returns (callable, args) or (callable, args, kwargs)
  package.module:function  with --input 'float32[2,16,64]' for each of its arguments
"""
WALKTHROUGH_HELP = """\
TARGET is the name of a fusion (see `fusions`), of which a small example is shown, or your own:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except TileBackendError as error:
        print(f"tile-backend: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    top = argparse.ArgumentParser(
        prog="tile-backend",
        description="What torch.compile(model, backend='tilegym') does, and why.",
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=20, width=100),
    )
    top.add_argument("--version", action="version", version=VERSION)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    add_explain(with_target(commands, "explain", "show what would be fused, and why not"))
    add_lock(with_target(commands, "lock", "write the sites of a model to a lock file"))
    add_precompile(
        with_target(commands, "precompile", "compile the kernels of a model, without a GPU")
    )
    add_tune(with_target(commands, "tune", "measure how a model's kernels are launched fastest"))
    add_walkthrough(
        with_target(
            commands, "walkthrough", "lead one module through every stage, down to its kernel"
        )
    )
    bench = with_target(commands, "bench", cli_bench.SUMMARY)
    cli_bench.add_arguments(bench)
    bench.set_defaults(run=run_bench)
    add_diff(commands.add_parser("diff", help="compare two dumps: sites lost, gained, changed"))
    fusions = commands.add_parser("fusions", help="list the fusions")
    fusions.set_defaults(run=run_fusions)
    doctor = commands.add_parser("doctor", help="show what is installed and what can run here")
    doctor.set_defaults(run=run_doctor)
    return top


def with_target(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    """A command that takes a TARGET and what describes its inputs."""
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=TARGET_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", metavar="TARGET", help="what to look at, see below")
    command.add_argument(
        "--input", action="append", default=[], metavar="DTYPE[SIZES]", help="of a function"
    )
    command.add_argument("--batch", type=int, default=2, help="of a language model (2)")
    command.add_argument("--length", type=int, default=24, help="tokens of a language model (24)")
    command.add_argument("--dtype", default="float32", help="of a language model (float32)")
    command.add_argument("--attention", help="sdpa or eager (sdpa where the class has it)")
    return command


def add_explain(command: argparse.ArgumentParser) -> None:
    """explain: besides TARGET, what to do with the report."""
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.add_argument("--save", metavar="FOLDER", help="write the graph-diff dump there")
    command.add_argument("--expect", metavar="LOCK", help="fail if a site of the lock file is lost")
    command.set_defaults(run=run_explain)


def add_lock(command: argparse.ArgumentParser) -> None:
    """lock: besides TARGET, the file."""
    command.add_argument("-o", "--output", metavar="FILE", help="TARGET.lock.json unless given")
    command.set_defaults(run=run_lock)


def add_architectures(command: argparse.ArgumentParser, summary: str) -> None:
    """For which GPUs, and for which sizes."""
    command.add_argument("--arch", action="append", default=[], metavar="sm_NN", help=summary)
    text = "for other sizes of the inputs as well"
    command.add_argument("--dynamic", action="store_true", help=text)


def add_precompile(command: argparse.ArgumentParser) -> None:
    """precompile: besides TARGET, for which GPU and into which folder."""
    add_architectures(command, "of the GPU; may be repeated (that of this machine)")
    command.add_argument("--out", metavar="FOLDER", help="the store to fill (the user's own)")
    command.set_defaults(run=run_precompile)


def add_tune(command: argparse.ArgumentParser) -> None:
    """tune: besides TARGET, on which GPU, and how much of it."""
    add_architectures(command, "of the GPU (that of this machine); of others, only prepare it")
    command.add_argument("--training", action="store_true", help="with the backward of training")
    command.add_argument("--again", action="store_true", help="measure what is stored as well")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=run_tune)


def add_walkthrough(command: argparse.ArgumentParser) -> None:
    """walkthrough: TARGET may be a fusion, too."""
    command.epilog = f"{WALKTHROUGH_HELP}\n{TARGET_HELP}"
    command.add_argument("--site", default="", help="which: FUSION, MODULE or FUSION@MODULE")
    command.add_argument("--full", action="store_true", help="every line of everything")
    command.add_argument("--backward", action="store_true", help="with the backward of training")
    command.add_argument("--html", metavar="FILE", help="write one page that needs no network")
    command.add_argument("-o", "--output", metavar="FILE", help="write the whole text")
    command.set_defaults(run=run_walkthrough)


def add_diff(command: argparse.ArgumentParser) -> None:
    """diff: two dumps."""
    command.description = "Exit code: 0 where nothing changed, 1 where something did."
    for name in ("before", "after"):
        command.add_argument(name, metavar=name.upper(), help="a dump, or its report.json")
    command.set_defaults(run=run_diff)


def request_of(arguments: argparse.Namespace) -> Request:
    """What the arguments of `with_target` ask for."""
    from tile_backend.targets import Request

    return Request(
        arguments.target,
        tuple(arguments.input),
        arguments.batch,
        arguments.length,
        arguments.dtype,
        arguments.attention,
    )


def report_on(target: Target) -> Report:
    """The report of the target, under its title."""
    import dataclasses

    import torch

    from tile_backend import explain

    with torch.no_grad():
        report = explain(target.function, *target.args, **target.kwargs)
    return dataclasses.replace(report, title=target.title)


def run_explain(arguments: argparse.Namespace) -> int:
    """Print the report; save it and check it where asked to."""
    from tile_backend.expectations import enforce
    from tile_backend.options import Options

    report = report_on(request_of(arguments).resolve())
    print(report.to_json() if arguments.json else report.to_text())
    if arguments.save:
        print(f"saved to {report.save(arguments.save)}", file=sys.stderr)
    if arguments.expect:
        enforce(report, Options(strict="expect", expect=arguments.expect))
    return 0


def run_lock(arguments: argparse.Namespace) -> int:
    """Write the lock file and say where it is."""
    from tile_backend import lock_file

    request = request_of(arguments)
    path = arguments.output or request.lock_name()
    report = report_on(request.resolve())
    lock_file.save(report, path, request.command())
    print(f"{path}: {len(report.fused)} sites of {report.title}")
    return 0


def run_precompile(arguments: argparse.Namespace) -> int:
    """Compile, and say what became of each kernel."""
    from tile_backend.precompile import precompile

    target = request_of(arguments).resolve()
    done = precompile(target, arguments.arch, arguments.out, arguments.dynamic)
    print(done.to_text())
    return 0


def run_tune(arguments: argparse.Namespace) -> int:
    """Measure, and say what became of each launch; 1 if it ended early, or lacks a compiler."""
    from tile_backend.tuning import tune

    target = request_of(arguments).resolve()
    chosen = arguments.arch, arguments.dynamic, arguments.again, arguments.training
    done = tune(target, *chosen)
    print(done.to_json() if arguments.json else done.to_text())
    return 1 if done.failed else 0


def run_bench(arguments: argparse.Namespace) -> int:
    """Print who won; 1 where a version is wrong or did not run."""
    text, code = cli_bench.run(request_of(arguments), arguments)
    print(text)
    return code


def run_diff(arguments: argparse.Namespace) -> int:
    """Print what changed; 1 if anything did."""
    from pathlib import Path

    from tile_backend import dump_comparison, saved_report

    before, after = (saved_report.load(Path(p)) for p in (arguments.before, arguments.after))
    found = dump_comparison.compare(before, after)
    print(found.to_text())
    return 1 if found.changes else 0


def run_fusions(_: argparse.Namespace) -> int:
    """Print a table of the fusions, registered ones included."""
    from tile_backend.registry import known_fusions
    from tile_backend.report_text import aligned

    rows = [("fusion", "spellings", "declined", "ops", "what it is")]
    for fusion in known_fusions():
        ops = ", ".join(op.name for op in fusion.ops)
        counts = str(len(fusion.supported)), str(len(fusion.declined))
        rows.append((fusion.name, *counts, ops, fusion.summary))
    print("\n".join(aligned(rows)))
    return 0


def run_doctor(_: argparse.Namespace) -> int:
    """Print the diagnosis; 1 if models cannot be compiled here."""
    from tile_backend.doctor import examine

    diagnosis = examine()
    print(diagnosis.to_text())
    return 0 if diagnosis.healthy else 1


def run_walkthrough(arguments: argparse.Namespace) -> int:
    """Print the tour, in colours on a terminal, or write it."""
    from tile_backend import tour_examples, walkthrough

    target = tour_examples.target(request_of(arguments), arguments.backward)
    with tour_examples.gradients(arguments.backward):
        tour = walkthrough(target.function, *target.args, site=arguments.site, **target.kwargs)
    files = [name for name in (arguments.html, arguments.output) if name]
    for name in files:
        print(f"saved to {tour.save(name)}", file=sys.stderr)
    if files:
        return 0
    if sys.stdout.isatty():
        from tile_backend import tour_terminal

        tour_terminal.show(tour, arguments.full, "--full")
    else:
        print(tour.to_text(arguments.full, "--full"))
    return 0
