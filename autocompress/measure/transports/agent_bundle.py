"""The agent as one file that a board can run, and the command that starts it there."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: Modules of ``autocompress.measure`` that run on the board.
MODULES = ("agent", "agent_facts", "agent_store", "rounds", "calm_blocks", "machine_state", "order_statistics")
#: Of all models that an agent keeps on its board.
LIMIT_BYTES = 2 << 30
READY, WANTED, REFUSED = "autocompress ready", "autocompress wants", "autocompress refuses"
_MAIN = "from autocompress.measure.agent import main\n\nmain()\n"
#: Runs over there before the agent is: takes it from standard input where it is not there yet, then becomes it. It is
#: run by whatever Python stands there, so its first line must be right for the oldest.
_BOOTSTRAP = """
import sys
digest, size, folder, lock, limit = sys.argv[1:6]
def say(word):
    sys.stdout.write("autocompress " + word + "\\n")
    sys.stdout.flush()
if sys.version_info < (3, 6):
    say("refuses Python %d.%d, it needs 3.6 or newer" % sys.version_info[:2])
    sys.exit(0)
import hashlib, os, runpy
def read(path):
    with open(path, "rb") as file:
        return file.read()
try:
    if not folder:
        lock = lock or "/tmp/autocompress-timing.lock"
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "autocompress")
    folder = os.path.expanduser(folder)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, "agent-%s.pyz" % digest[:16])
    if os.path.isfile(path) and hashlib.sha256(read(path)).hexdigest() == digest:
        say("ready")
    else:
        say("wants")
        data = b""
        while len(data) < int(size):
            chunk = os.read(0, int(size) - len(data))
            if not chunk:
                sys.exit(0)
            data += chunk
        part = "%s.%d" % (path, os.getpid())
        with open(part, "wb") as file:
            file.write(data)
        if hashlib.sha256(read(part)).hexdigest() != digest:
            raise OSError(0, "the agent arrived damaged")
        os.replace(part, path)
except OSError as error:
    say("refuses to be copied to %s: %s" % (folder, error.strerror))
    sys.exit(0)
sys.argv = [path, "--folder", folder, "--lock", lock or os.path.join(folder, "timing.lock"), "--limit-bytes", limit]
sys.path.insert(0, path)
runpy.run_path(path, run_name="__main__")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentBundle:
    """The agent's file.

    Args:
        data: a zip that Python runs.
        digest: SHA-256 of it; the board keeps it under this name, so that it goes over once.
    """

    data: bytes
    digest: str

    def command(self, python: tuple[str, ...], *, folder: str = "", limit_bytes: int = LIMIT_BYTES) -> list[str]:
        """Arguments that start it.

        Args:
            python: the interpreter and its options.
            folder: for models and the lock over there; the user's cache folder where empty, the lock then lies where
                all users of the board find it.
            limit_bytes: of all models together.
        """
        script = base64.b64encode(_BOOTSTRAP.encode()).decode()
        start = "import base64,sys;script=sys.argv.pop(1);exec(base64.b64decode(script))"
        return [*python, "-c", start, script, self.digest, str(len(self.data)), folder, "", str(limit_bytes)]


@cache
def agent_bundle() -> AgentBundle:
    """The agent of this release; the same bytes every time."""
    folder = Path(__file__).resolve().parents[1]
    files = {
        "__main__.py": _MAIN,
        "autocompress/__init__.py": "",
        "autocompress/measure/__init__.py": "",
        **{f"autocompress/measure/{name}.py": (folder / f"{name}.py").read_text(encoding="utf-8") for name in MODULES},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return AgentBundle(data=data, digest=hashlib.sha256(data).hexdigest())
