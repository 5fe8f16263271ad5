"""Published latencies."""

from pathlib import Path

import pytest

from autocompress.core.errors import UserError
from autocompress.hardware.reference import ReferenceRow, family, read_rows, reference_rows, usable, workload_name

HEADER = "target,runtime,threads,model,precision,batch,input_px,latency_ms\n"


def named(model: str, pixels: int | None = 224) -> str | None:
    return workload_name(
        ReferenceRow(
            target="t",
            runtime="r",
            threads=None,
            model=model,
            precision="fp32",
            batch=1,
            input_px=pixels,
            latency_ms=1.0,
        )
    )


def test_the_shipped_rows_cover_the_targets_that_are_judged() -> None:
    found = {row.target for row, _ in usable(reference_rows())}
    assert {"jetson-nano", "raspberry-pi-4b", "raspberry-pi-5", "x86-zen5", "pixel-4"} <= found
    assert all(row.source for row in reference_rows())


@pytest.mark.parametrize(
    ("model", "workload"),
    [
        ("mobilenet", "mobilenet-v1-1.0-224"),
        ("mobilenet-v2-0.35-96", "mobilenet-v2-0.35-96"),
        ("mobilenet_v1_0.25_128", "mobilenet-v1-0.25-128"),
        ("mobilenet-v3-small-minimalistic_224_1.0_uint8", "mobilenet-v3-small-minimalistic-1.0"),
        ("quantized-efficientnet-lite4", "efficientnet-lite4"),
        ("mobilenet_v3", "mobilenet-v3-large-1.0"),
        ("no-such-net", None),
    ],
)
def test_names_of_tables_find_their_workload(model: str, workload: str | None) -> None:
    assert named(model) == workload


def test_one_name_with_two_sizes_is_two_workloads() -> None:
    assert (named("alexnet", 227), named("alexnet", None)) == ("alexnet-caffe", "alexnet")


def test_widths_of_one_architecture_are_a_family() -> None:
    assert family("mobilenet-v2-0.35-96") == family("mobilenet-v2-1.4-224") != family("mobilenet-v1-1.0-224")


def test_an_outlying_mean_gives_way_to_the_least(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER.strip() + ",latency_min_ms\nt,r,4,m,fp32,1,224,9.0,3.0\nt,r,4,m,fp32,1,224,3.1,3.0\n")
    assert [row.typical_ms for row in read_rows(path)] == [3.0, 3.1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target,model\n", "no column 'runtime'"),
        (HEADER + "t,r,4,m,fp32,1,224,fast\n", "line 2: latency_ms must be a positive number, but got 'fast'"),
        (HEADER + "t,r,4,m,fp32,1,224,\n", "line 2: latency_ms is missing"),
        (HEADER + "t,r,4,m,fp32,1,224,nan\n", "must be a positive number"),
    ],
)
def test_a_malformed_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_rows(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot read"):
        read_rows(tmp_path / "none.csv")
