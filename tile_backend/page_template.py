"""A page from a template and the files beside it: what every page of ours is made with.

Values are escaped; a name that the template does not get is an error.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence


def rendered(template: str, styles: Sequence[str], script: str = "", **values: object) -> str:
    """template, styles, script: names of files. The template also gets `style` and `script`."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(resource(template)).render(
        style=Markup("".join(map(resource, styles))),
        script=Markup(resource(script) if script else ""),
        **values,
    )


def resource(name: str) -> str:
    """A file beside this one."""
    return importlib.resources.files("tile_backend").joinpath(name).read_text(encoding="utf-8")
