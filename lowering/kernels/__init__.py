"""cuTile kernels, one file per op. Each has `plan(arguments, outputs, arch)` and `samples()`.

The only modules of the package that import `cuda.tile`, and only when a kernel is planned,
compiled or interpreted.
"""
