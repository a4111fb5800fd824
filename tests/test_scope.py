"""The `fusions(...)` scope: what it selects, how it nests, and that an idle one warns."""

from __future__ import annotations

import threading
import warnings

import pytest

from tile_backend import errors, scope
from tile_backend.options import Options

KNOWN = ("attention", "rms_norm", "rotary")


def chosen() -> str | tuple[str, ...]:
    return Options.parse({}, {}, scope.active(), lambda: KNOWN)[0].fusions


def test_outside_a_scope_everything_may_fire() -> None:
    assert scope.active() is None
    assert chosen() == "all"


def test_enable_and_disable() -> None:
    with scope.fusions(enable="rotary"):
        assert chosen() == ("rotary",)
    with scope.fusions(disable=["rotary", "attention"]):
        assert chosen() == ("rms_norm",)
    with scope.fusions(enable=["rotary", "rms_norm"], disable="rotary"):
        assert chosen() == ("rms_norm",)
    with scope.fusions(enable=()):
        assert chosen() == ()
    assert chosen() == "all"


def test_scopes_nest() -> None:
    with scope.fusions(disable="rotary"):
        with scope.fusions(disable="attention"):
            assert chosen() == ("rms_norm",)
        with scope.fusions(enable=["attention", "rotary"]):
            assert chosen() == ("attention",)
        assert chosen() == ("attention", "rms_norm")


def test_an_unknown_name_is_an_error_at_the_backend_call() -> None:
    words = r"'rotery' in tile_backend.fusions\(...\): the nearest known one is 'rotary'"
    with scope.fusions(disable="rotery"), pytest.raises(errors.UnknownFusion, match=words):
        chosen()


def test_what_is_not_a_name_is_refused_at_once() -> None:
    with (
        pytest.raises(errors.BadOptionValue, match=r"fusions\(enable=\)"),
        scope.fusions(enable=[1]),
    ):  # type: ignore[list-item]
        pass


def test_a_scope_in_which_nothing_compiled_warns() -> None:
    words = r"nothing was compiled inside `with tile_backend.fusions\(disable='rotary'\)`"
    with (
        pytest.warns(errors.NothingCompiled, match=words) as caught,
        scope.fusions(disable="rotary"),
    ):
        pass
    assert caught[0].filename == __file__


def test_an_error_inside_is_not_drowned_by_the_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError), scope.fusions(disable="rotary"):
            raise ZeroDivisionError


def test_another_thread_does_not_see_the_scope() -> None:
    seen: list[object] = []
    with scope.fusions(disable="rotary"):
        thread = threading.Thread(target=lambda: seen.append(scope.active()))
        thread.start()
        thread.join()
        scope.active()
    assert seen == [None]
