"""What boards say about themselves, in their own words."""

from __future__ import annotations

from autocompress.hardware.host import device_facts, host_facts
from autocompress.measure.agent_facts import facts, parse_tegrastats, parse_vcgencmd, sensors


def test_a_board_is_read_as_this_machine_is() -> None:
    assert device_facts(facts()) == host_facts()


def test_another_board_is_told_from_its_files() -> None:
    cpuinfo = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\nprocessor\t: 1\n"
    told = {
        "files": {
            "/proc/cpuinfo": cpuinfo,
            "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4",
            "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000",
        },
        "affinity_cores": 4,
        "memory_bytes": 4 * 2**30,
        "system": "Linux",
        "machine": "aarch64",
    }
    found = device_facts(told)
    assert (found.cpu, found.board, found.cores) == ("Cortex-A72", "Raspberry Pi 4 Model B Rev 1.4", 4)
    assert (found.isa, found.clock_ghz) == (("neon",), 1.8)
    assert found.fingerprint.startswith(
        "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, 4 cores, neon, 4 GiB, Linux aarch64"
    )


def test_a_raspberry_pi_tells_its_throttling() -> None:
    found = parse_vcgencmd(
        {
            "measure_temp": "temp=48.2'C\n",
            "measure_clock arm": "frequency(0)=1500345728\n",
            "get_throttled": "throttled=0x50005\n",
        }
    )
    assert found == {
        "firmware_temperature_c": 48.2,
        "firmware_clock_mhz": 1500,
        "throttling": ["under-voltage now", "throttled now", "under-voltage has occurred", "throttling has occurred"],
    }


def test_a_calm_raspberry_pi_is_not_throttled() -> None:
    assert parse_vcgencmd({"get_throttled": "throttled=0x0\n"}) == {"throttling": []}


def test_a_jetson_nano_tells_its_rails() -> None:
    line = (
        "RAM 1421/3964MB (lfb 2x4MB) CPU [8%@1479,5%@1479,3%@1479,4%@1479] EMC_FREQ 0% GR3D_FREQ 0% PLL@39C CPU@42C "
        "PMIC@100C GPU@41C AO@49.5C thermal@41.5C POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
    )
    found = parse_tegrastats(line)
    assert found["rails_mw"] == {"POM_5V_IN": 900, "POM_5V_GPU": 0, "POM_5V_CPU": 123}
    assert found["tegra_temperatures_c"]["GPU"] == 41.0
    assert "PMIC" not in found["tegra_temperatures_c"]
    assert found["gpu_load_percent"] == 0


def test_an_orin_writes_units() -> None:
    found = parse_tegrastats("GR3D_FREQ 99% VDD_IN 5336mW/4970mW VDD_CPU_GPU_CV 1071mW/900mW VDD_SOC 1432mW/1400mW")
    assert found["rails_mw"] == {"VDD_IN": 5336, "VDD_CPU_GPU_CV": 1071, "VDD_SOC": 1432}


def test_a_machine_without_sensors_tells_none() -> None:
    assert parse_tegrastats("") == parse_vcgencmd({}) == {}
    assert isinstance(sensors(), dict)
