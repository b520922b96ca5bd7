"""What a manifest says of the machine."""

from __future__ import annotations

import pytest

from ts4s_core.artifacts.versions.environment import instructions_in

AVX512 = "fma avx2 avx512f avx512dq avx512bw avx512vl"


@pytest.mark.parametrize(
    ("vendor", "flags", "found"),
    [
        ("GenuineIntel", "fma avx2 sse4_2", "AVX2"),
        ("GenuineIntel", "fma avx2 avx_vnni", "AVX2 VNNI"),
        ("GenuineIntel", AVX512, "AVX512"),
        ("GenuineIntel", f"{AVX512} avx512_vnni", "AVX512 VNNI"),
        ("GenuineIntel", f"{AVX512} avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16", "AVX512 VNNI BF16 FP16 AMX"),
        ("AuthenticAMD", f"{AVX512} avx512_vnni avx512_bf16", "AVX512 VNNI BF16 AMD"),
        ("GenuineIntel", "fma avx2 avx512f", "AVX2"),
    ],
)
def test_cpus_whose_libraries_choose_other_kernels_are_told_apart(vendor: str, flags: str, found: str) -> None:
    lines = ("processor\t: 0", f"vendor_id\t: {vendor}", "model name\t: A CPU", f"flags\t\t: {flags}", "bogomips\t: 1")
    assert instructions_in("\n".join(lines * 2)) == found
