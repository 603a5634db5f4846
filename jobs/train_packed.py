"""`agegender train-packed` as a script, for a machine with neither Ray nor the package installed; the flags are the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from agegender.cli import run_job  # of the folder beside, where it is not installed

if __name__ == "__main__":
    sys.exit(run_job("train-packed"))
