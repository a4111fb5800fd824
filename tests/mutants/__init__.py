"""Mutants: small changes of the code that must not be wrong, each against the tests that notice it.

`python -m tests.mutants` (`make mutants`) runs the list in `areas` and writes what came out to
`bench/results/mutants.json` and docs/mutants.md.
"""
