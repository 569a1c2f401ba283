"""Run a command as torchrun starts it: `torchrun --nproc-per-node 8 -m canthus.trainer.commands train PACK`."""

import sys

from canthus.runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
