"""The mutants by area: each module has `MUTANTS`, and its docstring's first line is the title."""
