"""Devices behind a real sshd on loopback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import DeviceLostError, TargetError
from autocompress.hardware.host import host_fingerprint
from autocompress.measure.device import open_device
from autocompress.measure.transports.ssh import SshAddress, SshConnection, remote_word


def message(ssh_server: Any, url: str | None = None) -> str:
    """How the device is refused."""
    with pytest.raises(TargetError) as caught:
        open_device(url or ssh_server.url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_device_says_what_it_is(ssh_server: Any) -> None:
    device = open_device(ssh_server.url)
    assert device.fingerprint == host_fingerprint()
    assert device.versions["python"] == sys.version.split()[0]
    device.need_onnxruntime()
    device.close()


def test_the_agent_goes_over_once(ssh_server: Any) -> None:
    connection = SshConnection(SshAddress.parse(ssh_server.url))
    first = connection.open_agent()
    second = connection.open_agent()
    assert (first.copied, second.copied) == (True, False)
    assert first.alive and second.alive
    for part in (first, second, connection):
        part.close()


def test_agents_share_one_connection(ssh_server: Any) -> None:
    connection = SshConnection(SshAddress.parse(ssh_server.url))
    links = [connection.open_agent() for _ in range(3)]
    for part in (*links, connection):
        part.close()
    assert ssh_server.log.read_text().count("Accepted publickey") == 1


def test_nothing_is_left_when_the_device_is_closed(ssh_server: Any) -> None:
    connection = SshConnection(SshAddress.parse(ssh_server.url))
    link = connection.open_agent()
    folder = connection._folder
    assert (folder / "s").exists()
    link.close()
    connection.close()
    assert not folder.exists()


def test_an_unknown_host_key_is_refused(ssh_server: Any) -> None:
    (ssh_server.folder / "known_hosts").write_text("")
    assert "its host key is not known: look at it and accept it once with `ssh device`" in message(ssh_server)


def test_not_even_a_lenient_configuration_lets_an_unknown_host_key_in(ssh_server: Any) -> None:
    (ssh_server.folder / "known_hosts").write_text("")
    with ssh_server.config.open("a") as config:
        config.write("  StrictHostKeyChecking no\n")
    assert "its host key is not known" in message(ssh_server)


def test_a_host_key_that_changed_is_refused(ssh_server: Any) -> None:
    other = (ssh_server.folder / "user_key.pub").read_text()
    (ssh_server.folder / "known_hosts").write_text(f"[127.0.0.1]:{ssh_server.port} {other}")
    assert "its host key has changed" in message(ssh_server)


def test_a_key_that_is_not_accepted_says_what_to_do(ssh_server: Any) -> None:
    (ssh_server.folder / "authorized_keys").write_text("")
    assert "none of your keys is accepted and passwords are not asked for: run `ssh-copy-id device`" in message(
        ssh_server
    )


def test_a_server_that_is_down_may_come_back(ssh_server: Any) -> None:
    ssh_server.kill()
    with pytest.raises(DeviceLostError, match="it refuses connections: is it up"):
        open_device(ssh_server.url)


def test_a_host_that_nobody_knows_says_so(ssh_server: Any) -> None:
    assert "there is no host 'nowhere.invalid'" in message(ssh_server, "ssh://nowhere.invalid")


def test_a_device_without_python_says_how_to_get_it(ssh_server: Any) -> None:
    text = message(ssh_server, "ssh://device?python=python9.9")
    assert "ssh://device has no python9.9" in text
    assert "sudo apt-get install python3" in text


def test_a_device_without_onnxruntime_says_how_to_get_it(ssh_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without its site packages this very Python has neither.
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_PYTHON", f"{sys.executable} -I -S")
    device = open_device(ssh_server.url)
    with pytest.raises(TargetError, match=r"has no numpy and onnxruntime: run `.*pip install numpy onnxruntime`"):
        device.need_onnxruntime()
    device.close()


def test_a_shell_that_greets_is_no_hindrance(ssh_server: Any, tmp_path: Path) -> None:
    greeter = tmp_path / "python"
    greeter.write_text(f'#!/bin/sh\necho "Welcome!"\nexec {sys.executable} "$@"\n')
    greeter.chmod(0o755)
    device = open_device(f"ssh://device?python={greeter}")
    assert device.versions["onnxruntime"]
    device.close()


def test_an_interpreter_below_the_home_folder_is_found(ssh_server: Any) -> None:
    inside = os.path.relpath(sys.executable, Path.home())
    device = open_device(f"ssh://device?python=~/{inside}")
    assert device.versions["python"]
    device.close()


@pytest.mark.parametrize(
    ("url", "user", "host", "port"),
    [
        ("ssh://pi@10.0.0.7:2222", "pi", "10.0.0.7", 2222),
        ("ssh://MyBoard", None, "MyBoard", None),
        ("ssh://pi@[fe80::1%eth0]:22", "pi", "fe80::1%eth0", 22),
    ],
)
def test_addresses_are_read(url: str, user: str | None, host: str, port: int | None) -> None:
    found = SshAddress.parse(url)
    assert (found.user, found.host, found.port) == (user, host, port)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://",
        "ssh://-oProxyCommand=touch",
        "ssh://-x@host",
        "ssh://pi:secret@host",
        "ssh://host/path",
        "ssh://host:port",
        "ssh://host?password=1",
        "ssh://ho st",
        "ssh://host;ls",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TargetError):
        SshAddress.parse(url)


def test_words_for_the_shell_over_there_are_quoted() -> None:
    assert remote_word("~/my venv/bin/python") == "\"$HOME\"/'my venv/bin/python'"
    assert remote_word("$(reboot)") == "'$(reboot)'"
