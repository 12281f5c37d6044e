"""Makes `sampler_laws` importable: it is shared with benchmarks/sampler_order.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
