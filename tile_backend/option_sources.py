"""Where option values come from, `options=` and the environment, and the checks of names.

Works on any dataclass whose fields were made by `option`: nothing here knows a single option.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tile_backend import option_values
from tile_backend.errors import UnknownEnvironment, UnknownFusion, UnknownOption
from tile_backend.nearest import close, nearest
from tile_backend.option_values import Reader

PREFIX = "tilegym."
ENVIRONMENT = "TILEGYM_"
DISABLE = "TILEGYM_DISABLE"
OF_THE_STORES = ("TILEGYM_KERNEL_STORE", "TILEGYM_KERNEL_STORE_MIB", "TILEGYM_TUNING")
"""Where compiled kernels are kept, and how many: see tile_backend.lowering.cubin_store."""


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """What an option is besides its default: how to read it and what its documentation says."""

    reader: Reader
    values: str
    meaning: str
    affects_code: bool
    is_flag: bool


def option(
    default: Any, reader: Reader, values: str, meaning: str, affects_code: bool = True
) -> Any:
    """A dataclass field that is an option. `values` is Markdown, the default first."""
    info = OptionInfo(reader, values, meaning, affects_code, isinstance(default, bool))
    return dataclasses.field(default=default, metadata={"option": info})


def infos_of(options: type) -> dict[str, OptionInfo]:
    """Every option of the dataclass by name, without prefix, in the order of declaration."""
    found = {field.name: field.metadata.get("option") for field in dataclasses.fields(options)}
    return {name: info for name, info in found.items() if info is not None}


def check_keys(names: Iterable[str], infos: Collection[str]) -> None:
    """Raise `UnknownOption` for the first name, without prefix, that is no option."""
    known = [PREFIX + name for name in infos]
    for key in (PREFIX + name for name in names):
        if key not in known:
            raise UnknownOption(key=key, nearest=nearest(key, known), known=", ".join(known))


def check_inductor_keys(
    names: Iterable[str], inductor: Collection[str], ours: Collection[str]
) -> None:
    """Raise `UnknownOption` for the first name that Inductor does not know either.

    inductor: `torch._inductor.list_options()`, which spells every separator as an underscore.
    """
    known = [PREFIX + name for name in ours]
    for name in names:
        if name.replace("-", "_") not in inductor:
            likely = nearest(name, (*known, *inductor, "mode"))
            raise UnknownOption(key=name, nearest=likely, known=", ".join(known))


def read_environment(environ: Mapping[str, str], infos: Mapping[str, OptionInfo]) -> dict[str, Any]:
    """The values that the environment sets; an empty variable is an unset one.

    A variable that looks like a typing error of ours warns. Others that begin with TILEGYM_ are
    left alone: the kernel library of that name has its own.
    """
    variables = {ENVIRONMENT + name.upper(): name for name in infos}
    values = {}
    for variable in sorted(name for name in environ if name.startswith(ENVIRONMENT)):
        if not environ[variable] or variable in (DISABLE, *OF_THE_STORES):
            continue
        if variable in variables:
            info = infos[variables[variable]]
            value = option_values.decode(variable, environ[variable], info.is_flag)
            values[variables[variable]] = info.reader(variable, value)
        elif likely := close(variable, (*variables, DISABLE, *OF_THE_STORES)):
            # Past parse and the backend: the user's own frame is out of reach inside a compile.
            warnings.warn(UnknownEnvironment(name=variable, nearest=likely), stacklevel=3)
    return values


def check_fusions(named: Mapping[str, Iterable[str]], known: Collection[str]) -> None:
    """Raise `UnknownFusion` for a name that is not known, saying which option has it."""
    for key, names in named.items():
        for name in names:
            if name not in known:
                raise UnknownFusion(
                    name=name, key=key, nearest=nearest(name, known), known=", ".join(sorted(known))
                )
