"""Which floating-point type this machine's CPU is fast in."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def is_faster_in_bfloat16(cpuinfo: str | None = None) -> bool:
    """Whether networks run faster in bfloat16 than in float32: with AMX, and with AMD's AVX512-BF16.

    With Intel's AVX512-BF16 without AMX (as in a virtual machine that hides AMX), the released model scores and trains at 0.69
    of its float32 speed (docs/speed.md, "Another CPU"). AMX was not available to measure.

    Args:
        cpuinfo: content of ``/proc/cpuinfo``; None: read this machine's. False if there is none.
    """
    if cpuinfo is None:
        cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    flags = _first_values(cpuinfo, "flags")
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in _first_values(cpuinfo, "vendor_id"))


def _first_values(cpuinfo: str, name: str) -> list[str]:
    values = (line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith(name))
    return next(values, "").split()
