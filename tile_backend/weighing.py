"""What the gate may use as evidence in a compile: what is stored, and a clock if the user asks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from tile_backend import machine, trust
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import device_clock
from tile_backend.lowering.choice import Means, settings_of
from tile_backend.lowering.device_clock import Clock
from tile_backend.lowering.measure import Measuring
from tile_backend.options import Options

clock: list[Clock] = [device_clock.time_rounds]
"""The last one counts; tests put in another."""


def means(
    options: Options, module: fx.GraphModule, inputs: Sequence[object], compiles: InductorAlone
) -> Means:
    """inputs: what the graph is called with. compiles: Inductor, with the user's settings."""
    settings = settings_of(compiles.mode, compiles.options)
    if options.tune != "on":
        return Means(settings)
    given = trust.real_inputs(module, inputs)
    driver = machine.driver_version()
    return Means(settings, Measuring(compiles, given, clock[-1], driver))
