"""`python -m kakusan`, which `torchrun -m kakusan` needs."""

import sys

from kakusan.cli import main

if __name__ == "__main__":
    sys.exit(main())
