"""A process that probes the model types it reads from stdin, one JSON line for each on stdout.

A model that hangs or crashes takes only this process with it; the pool starts another.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings

import torch

from tests.coverage.probe import probe


def main() -> None:
    """Answer on the original stdout; whatever models print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        answers.write(json.dumps(probe(line.strip())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
