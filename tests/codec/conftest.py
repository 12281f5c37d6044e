"""Makes `codec_models` importable; without the entropy coder there is nothing to test."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# pip install "kakusan[codec]"
collect_ignore_glob = [] if importlib.util.find_spec("constriction") else ["test_*.py"]
