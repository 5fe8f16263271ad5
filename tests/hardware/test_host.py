"""Facts of the host, from the texts that systems give."""

from dataclasses import replace

from autocompress.hardware.host import (
    HostFacts,
    _cgroup_cores,
    device_versions,
    host_facts,
    host_fingerprint,
    parse_cpuinfo,
    system_versions,
)
from autocompress.measure import agent_facts

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Gold  6248 CPU @ 2.50GHz
cpu MHz\t\t: 3100.000
flags\t\t: fpu fma avx2 avx512f avx512_vnni

processor\t: 1
model name\t: Intel(R) Xeon(R) Gold  6248 CPU @ 2.50GHz
"""
PI_5 = "processor : 0\nFeatures : fp asimd asimdhp asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n"
PI_4 = "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : 0xd08\n"
HOST = HostFacts(
    cpu="Some CPU",
    board="",
    cores=2,
    isa=("avx2", "fma"),
    clock_ghz=2.5,
    memory_bytes=8 * 2**30,
    system="Linux",
    machine="x86_64",
)


def test_x86_flags_and_nominal_clock_are_read() -> None:
    model, isa, clock = parse_cpuinfo(X86)
    assert model == "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz"
    assert isa == ("avx2", "avx512", "avx512_vnni", "fma")
    assert clock == 2.5


def test_arm_cores_get_their_names_and_flags() -> None:
    assert parse_cpuinfo(PI_5)[:2] == ("Cortex-A76", ("dotprod", "fp16", "neon"))
    assert parse_cpuinfo(PI_4)[:2] == ("Cortex-A72", ("neon",))


def test_an_empty_cpuinfo_gives_nothing_and_no_error() -> None:
    assert parse_cpuinfo("")[:2] == ("", ())


def test_this_host_has_facts() -> None:
    facts = host_facts()
    assert facts.cores >= 1
    assert facts.memory_bytes > 0
    assert facts.cpu
    assert facts.to_dict()["machine"] == facts.machine


def test_the_fingerprint_is_readable_and_stable() -> None:
    assert host_fingerprint() == host_fingerprint()
    assert HOST.fingerprint.startswith("Some CPU, 2 cores, avx2, 8 GiB, Linux x86_64 #")


def test_the_fingerprint_ignores_the_clock_of_the_moment() -> None:
    assert replace(HOST, clock_ghz=3.1).fingerprint == HOST.fingerprint


def test_the_fingerprint_tells_core_counts_apart() -> None:
    assert replace(HOST, cores=4).fingerprint != HOST.fingerprint


def test_a_container_limit_counts() -> None:
    assert _cgroup_cores({"/sys/fs/cgroup/cpu.max": "150000 100000"}.get) == 2  # type: ignore[arg-type]
    assert _cgroup_cores(lambda path: "max 100000" if path.endswith("cpu.max") else "") > 1000
    assert _cgroup_cores(lambda path: "") > 1000


def test_a_devices_versions_are_those_of_its_own_files() -> None:
    files = {"/proc/cpuinfo": "flags : x\nmicrocode : 0xa1\n", "/etc/nv_tegra_release": "# R35"}
    told = {"kernel": "5.10.1", "files": files}
    assert device_versions(told) == {"kernel": "5.10.1", "microcode": "0xa1", "driver": "# R35"}
    files["/proc/driver/nvidia/version"] = "NVRM version: 550\nGCC"
    assert device_versions(told)["driver"] == "NVRM version: 550"
    assert device_versions({}) == {"kernel": "", "microcode": "", "driver": ""}
    here = device_versions(agent_facts.facts())
    assert {name: here[name] for name in system_versions()} == system_versions()
