"""`agegender pack` as a script, for `ray job submit -- python jobs/pack.py ...`; the flags are the same."""

import sys

from agegender.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("pack"))
