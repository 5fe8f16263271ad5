"""Profiles made from the host."""

from pathlib import Path

import pytest

from autocompress.core.errors import UserError
from autocompress.core.target import Precision
from autocompress.hardware.host import HostFacts
from autocompress.hardware.profiles import local_target, read_profile
from autocompress.hardware.writing import write_profile

HOST = HostFacts(
    cpu="CPU",
    board="",
    cores=2,
    isa=("avx2", "avx512", "avx512_vnni", "fma"),
    clock_ghz=2.0,
    memory_bytes=2**33,
    system="Linux",
    machine="x86_64",
)
TARGET = local_target({"int8_ratio": 0.5, "fp16_ratio": 1.8, "version": "1.31.0", "threads": 1}, HOST)


def test_a_written_profile_reads_back_as_the_same_runtime(tmp_path: Path) -> None:
    found = read_profile(write_profile(TARGET, "my-board", tmp_path)).runtime()
    made = TARGET.runtime()
    for precision in Precision:
        for operator in ("Conv", "Conv:depthwise", "Gemm", "ConvTranspose"):
            one, other = found.capability(operator, precision), made.capability(operator, precision)
            assert (one.supported, one.peak_gops) == (other.supported, other.peak_gops)
        assert found.multiple(precision) == made.multiple(precision)


@pytest.mark.parametrize("name", ["My Board", "../x", "", "a--b"])
def test_a_malformed_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="hyphens"):
        write_profile(TARGET, name, tmp_path)


def test_a_profile_is_never_overwritten(tmp_path: Path) -> None:
    write_profile(TARGET, "my-board", tmp_path)
    with pytest.raises(UserError, match="there already"):
        write_profile(TARGET, "my-board", tmp_path)
