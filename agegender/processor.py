"""Which arithmetic this machine's CPU is fast in."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def is_faster_in_bfloat16(cpuinfo: str | None = None) -> bool:
    """Whether networks run faster in bfloat16 than in float32: with AMX, and with AMD's AVX512-BF16.

    With Intel's AVX512-BF16 without AMX (as in a virtual machine that hides AMX), the released model scores and trains at 0.69
    of its float32 speed (docs/speed.md, "Another CPU"). AMX was not available to measure.

    Args:
        cpuinfo: content of ``/proc/cpuinfo``; None: read this machine's. False if there is none.
    """
    cpuinfo = _cpuinfo() if cpuinfo is None else cpuinfo
    flags = _first_values(cpuinfo, "flags")
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in _first_values(cpuinfo, "vendor_id"))


def is_faster_in_int8(cpuinfo: str | None = None) -> bool:
    """Whether quantised networks run faster than in float32: on every x86 CPU with AVX2.

    Measured on one without VNNI (docs/speed.md, "int8"); with VNNI, which does in one instruction what AVX2 does in three, it
    should be more. Other CPUs were not measured. Nor was int8 against bfloat16 where a CPU has both.

    Args:
        cpuinfo: as for ``is_faster_in_bfloat16``.
    """
    return "avx2" in _first_values(_cpuinfo() if cpuinfo is None else cpuinfo, "flags")


def _cpuinfo() -> str:
    return CPUINFO.read_text() if CPUINFO.exists() else ""


def _first_values(cpuinfo: str, name: str) -> list[str]:
    values = (line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith(name))
    return next(values, "").split()
