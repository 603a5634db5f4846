import pytest

from agegender.processor import is_faster_in_bfloat16, is_faster_in_int8


@pytest.mark.parametrize(
    ("vendor", "flags", "faster"),
    [
        ("AuthenticAMD", "fma avx512f avx512_bf16 avx512_vnni", True),
        ("GenuineIntel", "fma avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "fma avx512f avx512_bf16 avx512_fp16", False),
        ("AuthenticAMD", "fma avx2", False),
    ],
)
def test_bfloat16_is_for_amx_and_for_amd(vendor: str, flags: str, faster: bool) -> None:
    core = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A 64-Core Processor\nflags\t\t: {flags}\n\n"
    assert is_faster_in_bfloat16(core * 2) is faster


def test_other_systems_have_no_such_description() -> None:
    assert is_faster_in_bfloat16("") is False
    assert is_faster_in_bfloat16("processor : 0\nFeatures : fp asimd bf16\n") is False


@pytest.mark.parametrize(
    ("flags", "faster"),
    [("avx2 fma", True), ("avx2 avx512_vnni avx512_bf16", True), ("avx sse4_2", False), ("asimd i8mm", False)],
)
def test_int8_is_for_cpus_with_avx2(flags: str, faster: bool) -> None:
    assert is_faster_in_int8(f"processor : 0\nflags : {flags}\n") is faster
