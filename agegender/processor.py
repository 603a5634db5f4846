"""What arithmetic this machine's CPU is fast in."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def is_faster_in_bfloat16(described: str | None = None) -> bool:
    """Whether networks run faster in bfloat16 than in float32: with AMX, and with AMD's AVX512-BF16.

    With Intel's AVX512-BF16 alone, which is what a virtual machine shows that hides AMX, the released model scores and trains at
    0.69 of its speed in float32 (docs/speed.md, "Another CPU"). AMX itself was at no hand to be measured.

    Args:
        described: content of ``/proc/cpuinfo``; None: of this machine. Where there is none, the answer is no.
    """
    if described is None:
        described = CPUINFO.read_text() if CPUINFO.exists() else ""
    flags = _first(described, "flags")
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in _first(described, "vendor_id"))


def _first(described: str, name: str) -> list[str]:
    values = (line.partition(":")[2] for line in described.splitlines() if line.startswith(name))
    return next(values, "").split()
