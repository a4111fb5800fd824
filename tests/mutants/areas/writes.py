"""Who writes to what, and what a term may stand for.

Regions, versions, storages, and which calls write to which of their operands.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

EFFECTS = "lowering/effects.py"
WRITES = "lowering/writes.py"
CANONICAL = "lowering/canonical.py"
COPIES = "tests/test_safety_copies.py"
WRITERS = f"{COPIES}::test_every_writer"
CERTIFICATES = "tests/test_certificates_writes.py"
BODIES = "tests/test_higher_order_bodies.py"

MUTANTS = (
    Mutant(
        "what-is-written-to-is-looked-through",
        CANONICAL,
        "        if node.op in CALLS and known and node not in self.effects.unsettled:",
        "        if node.op in CALLS and known:",
        ("tests/test_safety_mutation.py::test_not_a_norm",),
        equal="a match with such a value inside is refused (legality.unaliased): a second lock",
    ),
    Mutant(
        "a-copy-is-its-source",
        CANONICAL,
        "        if self.effects.writer_from(source, node, None) is not None:",
        "        if False:",
        (f"{COPIES}::test_every_copy[clone]",),
    ),
    Mutant(
        "a-copy-without-grad-is-its-source",
        CANONICAL,
        "        return node not in inside or source in inside",
        "        return True",
        ("tests/test_safety_autograd.py::test_a_copy_without_grad_is_a_constant",),
    ),
    Mutant(
        "all-versions-are-one",
        CANONICAL,
        "            return self._versioned(node) if node in self.effects.unsettled else"
        " self.term[node]",
        "            return self.term[node]",
        (f"{COPIES}::test_copies_of_two_versions_are_two_values", CERTIFICATES),
        equal="an op reads at one place, and no write may lie between that and a node that it"
        " takes the place of (read_place.undisturbed): a second lock",
    ),
    Mutant(
        "all-written-versions-are-one",
        EFFECTS,
        "        return sum(first < place < last for place in places)",
        "        return any(first < place < last for place in places)",
        (f"{COPIES}::test_three_versions_are_three_values",),
        equal="as of all-versions-are-one",
    ),
    Mutant(
        "terms-of-another-dtype-stand-for-a-node",
        CANONICAL,
        "    return term.dtype == fake.dtype and term.rank == fake.dim()",
        "    return term.rank == fake.dim()",
        ("tests/test_misjudged_calls.py",),
    ),
    Mutant(
        "terms-of-another-rank-stand-for-a-node",
        CANONICAL,
        "    return term.dtype == fake.dtype and term.rank == fake.dim()",
        "    return term.dtype == fake.dtype",
        ("tests/test_misjudged_calls.py",),
    ),
    Mutant(
        "all-regions-are-one",
        CANONICAL,
        "self.table.region, self._reader = self.effects.region[node], node",
        "self.table.region, self._reader = 0, node",
        ("tests/test_safety_autograd.py::test_what_is_computed_without_grad_is_another_value",),
    ),
    Mutant(
        "switches-of-modes-are-no-barriers",
        EFFECTS,
        "            if targets or is_opaque_call(node) or returns_nothing(node):",
        "            if targets or is_opaque_call(node):",
        ("tests/test_core_legality.py::test_the_reason_is_named",),
    ),
    Mutant(
        "bodies-write-to-nothing",
        EFFECTS,
        "    return list(found) if entries else everything",
        "    return []",
        (f"{BODIES}::test_a_copy_of_what_a_body_writes_to",),
    ),
    Mutant(
        "what-a-body-returns-is-new",
        EFFECTS,
        "            if node in effects.volatile or returned & set(storages(node))",
        "            if node in effects.volatile",
        (f"{BODIES}::test_a_copy_of_what_a_body_returns",),
        equal="torch gives what a body returns the storage of its operand, where a write is seen",
    ),
    Mutant(
        "grad-is-always-on",
        EFFECTS,
        "            if not grad:",
        "            if False:",
        ("tests/test_core_in_place.py::test_a_write_that_is_seen_stays",),
    ),
    Mutant(
        "a-region-is-run-without-its-writes",
        EFFECTS,
        "                inside.add(writer)\n                found.append(writer)",
        "                inside.add(writer)",
        (CERTIFICATES,),
    ),
    Mutant(
        "operators-do-not-write",
        WRITES,
        "    if node.target in IN_PLACE_OPERATORS or node.target in IN_PLACE_METHODS:",
        "    if node.target in IN_PLACE_METHODS:",
        (f"{WRITERS}[setitem]",),
    ),
    Mutant(
        "dunder-methods-do-not-write",
        WRITES,
        "    if node.target in IN_PLACE_OPERATORS or node.target in IN_PLACE_METHODS:",
        "    if node.target in IN_PLACE_OPERATORS:",
        (f"{WRITERS}[dunder_imul]",),
        equal="a method without a schema is run on meta tensors, which shows what it writes to",
    ),
    Mutant(
        "of-a-packet-the-first-overload-counts",
        WRITES,
        "getattr(target, name) for name in target.overloads()))",
        "getattr(target, name) for name in target.overloads()[:1]))",
        (f"{WRITERS}[one_of_two_overloads]",),
    ),
    Mutant(
        "functions-without-a-schema-do-not-write",
        WRITES,
        "        return observed(node)\n",
        "        return []\n",
        (f"{WRITERS}[python_function]",),
    ),
    Mutant(
        "writes-past-the-version-counter",
        WRITES,
        "        or any(address(t) in seen.storages for t in tensors(values[operand]))\n",
        "",
        (f"{WRITERS}[through_data]",),
    ),
    Mutant(
        "running-statistics-are-not-written",
        WRITES,
        "            elif argument.name in STATISTICS:",
        "            elif False:",
        (f"{WRITERS}[running_statistics]",),
    ),
    Mutant(
        "lists-are-not-written",
        WRITES,
        "        for each in flat(place.given(args, kwargs))",
        "        for each in (place.given(args, kwargs),)",
        (f"{WRITERS}[foreach_copy]",),
    ),
    Mutant(
        "out-is-one-tensor",
        "lowering/writes.py",
        '    found += flat(node.kwargs.get("out"))\n',
        "",
        ("tests/test_writes_out.py",),
    ),
    Mutant(
        "python-has-no-names-of-its-own",
        "lowering/writes.py",
        "        names = IN_PYTHON.get(self.name, (self.name,))",
        "        names = (self.name,)",
        ("tests/test_writes_out.py",),
    ),
    Mutant(
        "data-is-private",
        "lowering/in_place.py",
        '    if any(called_name(n) == "_get_data_attr" for n in before):',
        "    if False:",
        ("tests/test_safety_data.py",),
    ),
)
