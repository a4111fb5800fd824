"""cuTile kernels on the CPU: the real kernel's own IR, run with torch and checked as it runs.

`launch.interpret(grid, kernel, args)` is the entry. cuTile's front end (`adapter`) makes the IR; no
GPU, driver or compiler is needed. Imported only when a kernel is interpreted.
"""
