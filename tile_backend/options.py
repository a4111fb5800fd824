"""The options of the backend: one frozen dataclass is their only source.

Each field made by `option` is an option `tilegym.<name>` with an environment twin `TILEGYM_<NAME>`,
its reader, its row in docs/options.md, and whether it can change the generated code. Precedence:
TILEGYM_DISABLE=1 (plain Inductor), `options=`, the `fusions(...)` scope, the environment, the
default. Values are canonical and hashable; nothing here imports torch or the patterns.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tile_backend import globs, option_values
from tile_backend.option_sources import (
    DISABLE,
    ENVIRONMENT,
    PREFIX,
    OptionInfo,
    check_fusions,
    check_keys,
    infos_of,
    option,
    read_environment,
)
from tile_backend.scope import Scope


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything a user can choose. Build it with `Options.parse`, which checks every value."""

    fusions: str | tuple[str, ...] = option(
        "all", option_values.fusion_names, '`"all"`, list of names', "which fusions may fire"
    )
    include: tuple[tuple[str, tuple[str, ...]], ...] = option(
        (),
        option_values.module_globs,
        '`[]` (everywhere), list of module globs (`"model.layers.*.mlp"`), or dict fusion -> globs',
        "where they may fire",
    )
    exclude: tuple[tuple[str, tuple[str, ...]], ...] = option(
        (),
        option_values.module_globs,
        "`[]` (nowhere), list of module globs, or dict fusion -> globs",
        "where they may not fire; wins over include",
    )
    kernels: str = option(
        "auto",
        option_values.word("auto", "always", "never", "interpret"),
        '`"auto"`, `"always"`, `"never"`, `"interpret"`',
        "auto: the gate decides per site (on a CPU: left to Inductor); always: no gate, and a site "
        "without a kernel for the device is a fallback; never: match and report, leave everything "
        "to Inductor; interpret: run the real kernels in the CPU interpreter, checked as they run "
        "(CPU tensors only: elsewhere a site is a fallback, and left to Inductor)",
    )
    strict: str = option(
        "off",
        option_values.word("off", "expect", "no-fallback"),
        '`"off"`, `"expect"`, `"no-fallback"`',
        "what raises: nothing; a site missing from `expect`, or a failure of a whole pass or of a "
        "report; also a site whose kernel cannot run, that lacks the certificate that `verify` "
        "asks for, or at which something of ours failed",
        affects_code=False,
    )
    expect: str | tuple[tuple[str, int], ...] | None = option(
        None,
        option_values.expectation,
        "`None`, dict fusion -> count, path of a lock file",
        "sites that must be found",
        affects_code=False,
    )
    verify: str = option(
        "off",
        option_values.word("off", "first", "always"),
        '`"off"`, `"first"`, `"always"`',
        "run each site against its reference: never, once per distinct site at compile, at every "
        "call as well",
    )
    numerics: str = option(
        "budget",
        option_values.word("budget", "bitwise"),
        '`"budget"`, `"bitwise"`',
        "how close a rewrite must be to the original code: within its error budget; or, at each "
        "site and tried at compile, the very bits of Inductor's code",
    )
    report_dir: str | None = option(
        None,
        option_values.path,
        "`None`, path",
        "where the graph-diff dump goes",
        affects_code=False,
    )
    remarks: str = option(
        "fused,declined,near-miss,analysis",
        option_values.remark_filter,
        '`"fused,declined,near-miss,analysis"`, a filter such as '
        '`"near-miss:attention@model.layers.0.*"`',
        "which remarks are logged",
        affects_code=False,
    )
    tune: str = option(
        "off",
        option_values.word("off", "on"),
        '`"off"`, `"on"`',
        "on a GPU, measure at compile time the sites of which no measurement is stored, and store "
        "the result (see gate.md)",
    )
    drop_logits: bool = option(
        False,
        option_values.flag(),
        "`False`, `True`",
        "allow `linear_cross_entropy` although the model also returns logits: in their place it "
        "then returns an object that says so when it is used",
    )
    mode: str | None = None
    """`mode` given inside `options=`, which torch.compile does not allow beside `mode=`."""
    disabled: bool = False
    """TILEGYM_DISABLE=1: use plain Inductor and look at nothing else."""

    @classmethod
    def parse(
        cls,
        options: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        scope: Scope | None = None,
        known: Callable[[], Iterable[str]] | None = None,
    ) -> tuple[Options, dict[str, Any]]:
        """Our options, and those that belong to Inductor.

        options: as given to torch.compile; keys without our prefix are returned untouched.
        environ: `os.environ` unless given.  scope: `scope.active()`.
        known:   the names of all fusions, a user's own included; the built-in ones unless given.

        Raises `UnknownOption`, `BadOptionValue` or `UnknownFusion`.
        """
        given = dict(options or {})
        environment = os.environ if environ is None else environ
        theirs = {key: value for key, value in given.items() if not key.startswith(PREFIX)}
        mode = theirs.pop("mode", None)
        if mode is not None and not isinstance(mode, str):
            raise option_values.bad("mode", mode, "the name of a mode of torch.compile")
        if option_values.truth(DISABLE, environment.get(DISABLE, "")):
            return cls(mode=mode, disabled=True), theirs
        infos = option_infos()
        ours = {key.removeprefix(PREFIX): v for key, v in given.items() if key.startswith(PREFIX)}
        check_keys(ours, infos)
        values = read_environment(environment, infos)
        values |= {name: infos[name].reader(PREFIX + name, value) for name, value in ours.items()}
        parsed = cls(**values, mode=mode)
        names = frozenset((known or built_in_fusions)())
        check_fusions(parsed.named_fusions(scope), names)
        if scope is not None and "fusions" not in ours:
            parsed = parsed.within(scope, names)
        return parsed, theirs

    def within(self, scope: Scope, known: frozenset[str]) -> Options:
        """These options with the fusions that the scope leaves."""
        chosen = scope.select(known if self.fusions == "all" else self.fusions)
        return self if len(chosen) == len(known) else dataclasses.replace(self, fusions=chosen)

    def named_fusions(self, scope: Scope | None = None) -> Mapping[str, Iterable[str]]:
        """Every fusion that a user named, by the option or scope that names it."""
        return {
            "tilegym.fusions": () if self.fusions == "all" else self.fusions,
            "tilegym.include": [name for name, _ in self.include if name != globs.EVERY_FUSION],
            "tilegym.exclude": [name for name, _ in self.exclude if name != globs.EVERY_FUSION],
            "tilegym.expect": self.expected_counts,
            "tile_backend.fusions(...)": sorted(scope.names) if scope else (),
        }

    def allows(self, fusion: str, module: str) -> bool:
        """True if the user lets this fusion fire at this module path."""
        if self.fusions != "all" and fusion not in self.fusions:
            return False
        return globs.allowed(fusion, module, self.include, self.exclude)

    def unmatched_globs(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The globs of include and exclude that cover none of these module paths."""
        return globs.unmatched(self.include + self.exclude, paths)

    def warn_unmatched_globs(self, paths: Iterable[str]) -> None:
        """One `UnmatchedGlob` warning for each of them, naming the paths seen."""
        seen = tuple(paths)
        globs.warn_unmatched(f"{PREFIX}include", self.include, seen, stacklevel=2)
        globs.warn_unmatched(f"{PREFIX}exclude", self.exclude, seen, stacklevel=2)

    @property
    def expected_counts(self) -> Mapping[str, int]:
        """`tilegym.expect` where it is a dict, else empty."""
        return dict(self.expect) if isinstance(self.expect, tuple) else {}

    def identity(self) -> str:
        """A text that differs whenever two sets of options may give different code."""
        infos = option_infos()
        return json.dumps({n: getattr(self, n) for n, info in infos.items() if info.affects_code})


def option_infos() -> dict[str, OptionInfo]:
    """Every option by name, without prefix, in the order of the documentation."""
    return infos_of(Options)


def built_in_fusions() -> Iterable[str]:
    """The names of the fusions that come with the package."""
    # Imported here: reading options must not import the patterns, and with them torch.
    from tile_backend.patterns import all_fusions

    return (fusion.name for fusion in all_fusions())


def options_table() -> str:
    """The table of options in docs/options.md, in Markdown."""
    rows = [
        f"| `{PREFIX}{name}` | `{ENVIRONMENT}{name.upper()}` | {info.values} | {info.meaning} |"
        for name, info in option_infos().items()
    ]
    head = ["| option | environment | values (default first) | meaning |", "|---|---|---|---|"]
    return "\n".join(head + rows) + "\n"
