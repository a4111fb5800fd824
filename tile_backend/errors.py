"""The catalogue of our errors and warnings: one class per mistake, one sentence template each.

Every message says what happened, where, and what to do. The values that fill a template stay on
the exception as `.fields`, so that tools need not parse text; `where` ("model.layers.0.mlp,
file.py:61") is appended when given. Inside `torch.compile` an error reaches the user as
`BackendCompilerFailed` with ours as its `inner_exception`. Warnings can be filtered by class.
Longer than 300 lines because it is the one catalogue: whoever looks for a message finds it here.
"""

from __future__ import annotations

import string
from typing import ClassVar

ISSUES = "the project's issue tracker"


class Message(Exception):
    """A template and the fields that fill it; the common part of errors and warnings."""

    template: ClassVar[str] = "{text}"
    deliberate: ClassVar[bool] = True
    """Raised for the user, so that nothing of ours takes it for a failure (lowering/failure.py)."""
    fields: dict[str, object]

    def __init__(self, *, where: str = "", **fields: object) -> None:
        self.where = where
        self.fields = fields
        text = self.template.format(**fields)
        super().__init__(f"{text} [at {where}]" if where else text)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (compile workers); the default would drop the fields.
        return _rebuild, (type(self), self.where, self.fields)

    @classmethod
    def placeholders(cls) -> frozenset[str]:
        """The names of the fields that the template needs."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(cls.template) if name)


def _rebuild(kind: type[Message], where: str, fields: dict[str, object]) -> Message:
    return kind(where=where, **fields)


class TileBackendError(Message):
    """Base of every error that tile-backend raises on purpose."""


class TileBackendWarning(Message, UserWarning):
    """Base of every warning that tile-backend issues."""


# --- options --------------------------------------------------------------------------------------


class UnknownOption(TileBackendError):
    """A `tilegym.` key that is no option."""

    template = (
        "unknown option {key!r}: the nearest known option is {nearest!r}. "
        "All options of this backend: {known}."
    )


class BadOptionValue(TileBackendError):
    """A value that the option does not allow."""

    template = "bad value {value!r} for {key}: allowed is {allowed}."


class UnknownFusion(TileBackendError):
    """A fusion name that is neither built in nor registered."""

    template = (
        "unknown fusion {name!r} in {key}: the nearest known one is {nearest!r}. "
        "Known fusions: {known}."
    )


# --- what strict and expect raise -----------------------------------------------------------------


class ExpectationNotMet(TileBackendError):
    """`tilegym.expect` names more sites than were found, and strict is not off."""

    template = (
        "{title}: fewer sites were fused than expected.\n{lost}\n"
        "Compare with `python -m tile_backend explain`; if the change is intended, write the lock "
        "file again with `python -m tile_backend lock`."
    )


class FallbackRefused(TileBackendError):
    """A site lacks its kernel, or a certificate that was asked for, under "no-fallback"."""

    template = (
        "tilegym.strict='no-fallback': {count} site(s) would not run as wanted.\n{remarks}\n"
        "Follow the fix above, or use tilegym.strict='expect' to allow it."
    )


class ResultRefused(TileBackendError):
    """A result outside its budget under tilegym.verify="always" and a strict mode."""

    template = (
        "torch.ops.tilegym.{op} ({part}) is outside its error budget: {figures}. {saved}. "
        "tilegym.strict='off' goes on with what the op's reference gives."
    )


class PassFailed(TileBackendError):
    """A failure of our own under a strict mode; `__cause__` is the original error."""

    template = (
        "a pass of tile-backend failed ({cause}), and tilegym.strict={strict!r} does not let the "
        "graph go on without it. Use tilegym.strict='off' to leave this graph to Inductor, "
        f"and please report the traceback above to {ISSUES}."
    )


# --- files ----------------------------------------------------------------------------------------


class ReportFolderError(TileBackendError):
    """The dump cannot be written."""

    template = (
        "cannot write the report to {folder!r}: {cause}. "
        "Point tilegym.report_dir (or TILEGYM_REPORT_DIR) at a folder that can be written."
    )


class LockFileError(TileBackendError):
    """A lock file that is missing, foreign, or of another schema."""

    template = "cannot use {path!r} as a lock file: {cause}. Write it with: {command}."


class FileNotSaved(TileBackendError):
    """The file of a walk-through, or of a bench, cannot be written."""

    template = "cannot write {path!r}: {cause}. Name a file in a folder that can be written."


class DumpError(TileBackendError):
    """A dump that is missing, foreign, or of another schema."""

    template = (
        "cannot read {path!r} as a dump: {cause}. Write one with"
        " `python -m tile_backend explain TARGET --save FOLDER`, or report.save(folder)."
    )


class CannotReplay(TileBackendError):
    """What was saved of a result outside its budget cannot be read."""

    template = (
        "cannot replay {path!r}: {cause}. It is written, with its replay.py, where a result is "
        "outside its budget under tilegym.verify='always': save it again."
    )


class CannotBisect(TileBackendError):
    """A check with which no rewrite can be found at fault."""

    template = (
        "nothing to bisect: {cause}. `check` gets the compiled function and has to return False,"
        " or raise, where the result is wrong."
    )


# --- the machine ----------------------------------------------------------------------------------


class UnsupportedTorch(TileBackendError):
    """A torch outside the tested range."""

    template = (
        "torch {found} is not supported: this version of tile-backend needs torch {oldest} to "
        "{newest}. Install one of these, for example: pip install 'torch=={newest}.*'."
    )


class UnsupportedPython(TileBackendError):
    """A Python outside the tested range."""

    template = (
        "Python {found} is not supported: tile-backend needs Python {oldest} to {newest}. "
        "Create the environment with one of these."
    )


class MissingDependency(TileBackendError):
    """A package that the requested thing needs."""

    template = "{what} needs {package}, which is not installed: {cause}. Install it: {command}."


class UnknownArchitecture(TileBackendError):
    """A GPU to compile for that is none, or none at all."""

    template = (
        "which GPU to compile for? Found {found}. Name it with --arch, for example sm_90; the "
        "kernels run on sm_80 and newer, and `python -m tile_backend doctor` shows a machine's own."
    )


class PrecompileFailed(TileBackendError):
    """Kernels of a model are not in the store."""

    template = (
        "{count} kernel(s) are not in the store:\n{lines}\n"
        "The others are; what is missing is compiled where the model runs, or runs its reference."
    )


class TuningNotKept(TileBackendError):
    """Measurements that nobody could find again."""

    template = (
        "nothing is measured, since it could not be kept: {folder} cannot be written. "
        "Set {variable} to a folder that can be."
    )


# --- what was handed in ---------------------------------------------------------------------------


class UnknownTarget(TileBackendError):
    """A command-line target that names nothing."""

    template = (
        "unknown target {target!r}: {cause}. A target is a model type of Transformers (llama), "
        "a folder with a config.json, or package.module:callable."
    )


class BadTarget(TileBackendError):
    """A command-line target that exists but cannot be used."""

    template = "cannot use the target {target!r}: {cause}. {fix}."


class UnknownWalkthrough(TileBackendError):
    """A walk-through of nothing that is known."""

    template = (
        "unknown walk-through {name!r}: the nearest is {nearest!r}. Known are {known}; a module of"
        " your own is package.module:factory, a folder with a config.json, or"
        " tile_backend.walkthrough(module, *inputs)."
    )


class NoSuchSite(TileBackendError):
    """A walk-through was to show a site that is not there."""

    template = (
        "no site of {title} matches {wanted!r}. A site is named by its fusion, its module path or"
        " both (attention@model.layers.0.*). Sites here: {sites}."
    )


class LogitsDropped(TileBackendError, AttributeError):
    """Logits were used that nothing computed. An AttributeError, so that `hasattr` is False."""

    template = (
        "{use} of logits that were not computed: with tilegym.drop_logits=True the loss is "
        "computed without them. Compile with tilegym.drop_logits=False, or call the model without "
        "labels, to have them."
    )


# --- warnings -------------------------------------------------------------------------------------


class AlreadyCompiled(TileBackendWarning):
    """A compiled callable where the original is meant."""

    template = (
        "{what} is already compiled: what is looked at is the original inside it, and how it was "
        "compiled does not matter. Pass the original to be rid of this warning."
    )


class InternalFailure(TileBackendWarning):
    """A failure of our own that cost the fusions of one graph, and nothing else."""

    template = (
        "a pass of tile-backend failed and this graph goes to Inductor unchanged: it is correct, "
        "but nothing in it is fused. Cause: {cause}. Please report it to "
        f"{ISSUES} with the output of `python -m tile_backend doctor` and the traceback that "
        "TORCH_LOGS='+tile_backend' prints; tilegym.strict='expect' turns this into an error."
    )


class CompileFailed(InternalFailure):
    """Inductor could not compile what we made of a graph; something else runs, and is right."""

    template = (
        "Inductor could not compile {what}, so {instead}: it is correct, but {cost}. "
        f"Cause: {{cause}}. Please report it to {ISSUES} with the output of `python -m "
        "tile_backend doctor`; tilegym.strict='expect' turns this into an error."
    )


class ReportIncomplete(TileBackendWarning):
    """A failure of our own in what is said of a compile, not in what is compiled."""

    template = (
        "the report of this compile lacks something; the compiled program is not affected. "
        f"Cause: {{cause}}. Please report it to {ISSUES}."
    )


class ReportNotSaved(TileBackendWarning):
    """The report could not be written, or made: the compiled program is not affected."""

    template = (
        "the report of {title} is not saved; the compiled program is not affected "
        "(tilegym.strict='expect' turns this into an error). Cause: {cause}"
    )


class DumpNotCompleted(TileBackendWarning):
    """Generated code that came after the dump and could not be added to it."""

    template = (
        "the dump lacks code that Inductor has generated; the compiled program is not affected "
        "(tilegym.strict='expect' turns this into an error). Cause: {cause}"
    )


class ExpectationMissed(TileBackendWarning):
    """As `ExpectationNotMet`, while strict is off."""

    template = (
        "{title}: fewer sites were fused than expected.\n{lost}\n"
        "tilegym.strict='expect' turns this into an error."
    )


class UnmatchedGlob(TileBackendWarning):
    """A glob of include or exclude that covers no module."""

    template = (
        "{key}: the glob {glob!r} matches no module of this graph. A glob is relative to the "
        "compiled module and a prefix covers its subtree. Modules seen: {seen}."
    )


class CertificateFailed(TileBackendWarning):
    """A rewrite whose results are not good enough: tilegym.verify has kept it out."""

    template = (
        "{fusion} at {modules} ({source}) failed its certificate and keeps its original code: "
        "{text}. The result of the compiled program is not affected. Please report it to "
        f"{ISSUES}; tilegym.strict='no-fallback' turns this into an error."
    )


class ResultDiverged(TileBackendWarning):
    """A result outside its budget under tilegym.verify="always": the first of a site."""

    template = (
        "torch.ops.tilegym.{op} ({part}) is outside its error budget: {figures}. What the op's "
        "reference gives is used in its place, here and from now on. {saved}. Leave the site out "
        f"with tilegym.exclude, and please report it to {ISSUES}."
    )


class ResultUnchecked(TileBackendWarning):
    """A check of tilegym.verify="always" that could not be made: the first of a site."""

    template = (
        "torch.ops.tilegym.{op} ({part}) could not be checked, and its results are used as they "
        "are. Cause: {cause}. tilegym.strict='expect' turns this into an error."
    )


class NothingCompiled(TileBackendWarning):
    """A `fusions(...)` scope that no backend call read."""

    template = (
        "nothing was compiled inside `with tile_backend.fusions({arguments})`, so it had no "
        "effect: the scope is read at the first call of the compiled callable. Make that call "
        "inside it."
    )


class UnknownEnvironment(TileBackendWarning):
    """An environment variable that looks like a typing error of ours."""

    template = (
        "the environment variable {name} is not known and has no effect: did you mean {nearest}?"
    )
