"""The catalogue of errors: every class renders, says what to do, and survives pickling."""

from __future__ import annotations

import inspect
import pickle
import warnings

import pytest

from tile_backend import errors
from tile_backend.errors import TileBackendError, TileBackendWarning

CATALOGUE = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, TileBackendError | TileBackendWarning)
    and kind not in (TileBackendError, TileBackendWarning)
]


def filled(kind: type[errors.Message]) -> errors.Message:
    return kind(where="model.norm, file.py:7", **dict.fromkeys(kind.placeholders(), "<value>"))


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.__name__)
def test_message_holds_every_field_and_ends_with_the_place(kind: type[errors.Message]) -> None:
    text = str(filled(kind))
    assert text.count("<value>") >= len(kind.placeholders()) > 0
    assert text.endswith("[at model.norm, file.py:7]")


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.__name__)
def test_message_survives_pickling(kind: type[errors.Message]) -> None:
    before = filled(kind)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (str(after), after.fields, after.where) == (str(before), before.fields, before.where)


def test_fields_stay_on_the_exception() -> None:
    error = errors.BadOptionValue(value="yes", key="tilegym.tune", allowed="'off', 'on'")
    assert error.fields == {"value": "yes", "key": "tilegym.tune", "allowed": "'off', 'on'"}
    assert str(error) == "bad value 'yes' for tilegym.tune: allowed is 'off', 'on'."


def test_a_missing_field_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError, match="allowed"):
        errors.BadOptionValue(value="x", key="y")


def test_warnings_are_filtered_by_class() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", errors.NothingCompiled)
        warnings.warn(errors.NothingCompiled(arguments="disable='rotary'"), stacklevel=1)
        warnings.warn(errors.UnknownEnvironment(name="A", nearest="B"), stacklevel=1)
    assert [w.category for w in caught] == [errors.UnknownEnvironment]
