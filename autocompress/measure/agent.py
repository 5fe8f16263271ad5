"""The device side: keeps, runs and times models on the board it was copied to.

It goes over as one file, a zip of this module and the neighbours that it imports, and
needs Python 3.6 or newer, numpy and onnxruntime there. It opens no port: it reads requests from its standard input and
ends with it. A message is a line of JSON; one with ``bytes`` is followed by so many raw bytes.

* request: ``{"id": 1, "command": "time", ...}``
* answer: ``{"id": 1, "ok": true, "result": {...}}`` or ``{"id": 1, "ok": false, "kind": ..., "error": "one line"}``
* in between: ``{"id": 1, "event": "waiting", "seconds": 3.0, "holder": "process 77"}`` while another agent works
"""

import argparse
import gc
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Tuple

from autocompress.measure import agent_facts, rounds
from autocompress.measure.agent_store import Store, StoreError, file_digest, locked

#: Models that stay loaded; the reference is used every time and so never goes.
_LOADED = 6
_LONGEST_LINE = 1 << 20
_LONGEST_OUTPUT = 1 << 18
#: Inferences before the peak is read: the first ones make buffers that later ones reuse.
_MEMORY_RUNS = 3
#: Exit status of a command that needs a file which is not there (any more).
_FILE_GONE = -1000
#: What onnxruntime writes before the reason.
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Load model from \S+ failed: ?|/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])"
)
Answer = Tuple[Dict[str, Any], bytes]


class AgentError(Exception):
    """A request that cannot be met.

    Args:
        kind: ``protocol``, ``missing`` (models that must be sent first), ``model``, ``input`` or ``device``.
        reason: one line.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Model:
    """A loaded model."""

    def __init__(self, path: str, request: Mapping[str, Any]) -> None:
        ort = _import("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(request["threads"])
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        for key, value in request.get("entries", {}).items():
            options.add_session_config_entry(str(key), str(value))
        try:
            self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base
            raise AgentError("model", _first_line(error)) from error
        self.inputs = [argument.name for argument in self.session.get_inputs()]
        self.outputs = [argument.name for argument in self.session.get_outputs()]

    def specs(self) -> List[Dict[str, Any]]:
        """Name, type and shape of each input; sizes that may vary are None."""
        return [
            {
                "name": argument.name,
                "type": argument.type,
                "shape": [size if isinstance(size, int) and size >= 0 else None for size in argument.shape],
            }
            for argument in self.session.get_inputs()
        ]

    def run(self, arrays: List[Any]) -> List[Any]:
        """Outputs for one batch."""
        self._check(arrays)
        try:
            found = self.session.run(self.outputs, dict(zip(self.inputs, arrays)))  # type: List[Any]
        except Exception as error:
            raise AgentError("model", _first_line(error)) from error
        return found

    def bound_call(self, arrays: List[Any]) -> Callable[[], None]:
        """One inference with nothing around it."""
        ort = _import("onnxruntime")
        self._check(arrays)
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        binding = self.session.io_binding()
        for name, value in zip(self.inputs, values):
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name)
        run = self.session.run_with_iobinding

        # The binding does not own the inputs' memory: `keep` does.
        def call(keep: Any = values) -> None:
            run(binding)

        try:
            call()
        except Exception as error:
            raise AgentError("model", _first_line(error)) from error
        return call

    def _check(self, arrays: List[Any]) -> None:
        if len(arrays) != len(self.inputs):
            raise AgentError("input", "the model wants %d inputs, but got %d" % (len(self.inputs), len(arrays)))


class Agent:
    """Answers requests.

    Args:
        store: where models are kept.
        lock: path of the lock that every agent on this board takes while it works.
        say: sends an event of the request in hand.
        gone: whether the other side hung up.
    """

    def __init__(
        self, store: Store, lock: str, say: Callable[[Dict[str, Any]], None], gone: Callable[[], bool]
    ) -> None:
        self._store = store
        self._lock = lock
        self._say = say
        self._gone = gone
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self._loaded = OrderedDict()  # type: OrderedDict[str, Model]
        self._commands = {
            "hello": self._hello,
            "sensors": lambda request, payload: (agent_facts.sensors(), b""),
            "has": self._has,
            "put": self._put,
            "load": self._load,
            "run": self._run,
            "time": self._time,
            "memory": self._memory,
            "which": self._which,
            "exec": self._exec,
        }  # type: Dict[str, Callable[[Mapping[str, Any], BinaryIO], Answer]]

    def answer(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        """Result and bytes for one request.

        Raises:
            AgentError: it cannot be met.
        """
        command = self._commands.get(str(request.get("command")))
        if command is None:
            known = ", ".join(sorted(self._commands))
            raise AgentError("protocol", "unknown command %r; known: %s" % (request.get("command"), known))
        try:
            if request["command"] in ("hello", "sensors", "has", "which"):
                return command(request, payload)
            with locked(self._lock, self._waiting):
                return command(request, payload)
        except StoreError as error:
            raise AgentError("device", str(error)) from error
        except KeyError as error:
            raise AgentError("protocol", "the request lacks %s" % error) from error

    def _waiting(self, seconds: float, holder: str) -> None:
        if self._gone():
            raise SystemExit(0)
        self._say({"event": "waiting", "seconds": round(seconds, 1), "holder": holder})

    def _hello(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        told = {"facts": agent_facts.facts(), "versions": agent_facts.versions(), "pid": os.getpid()}
        return dict(told, cpus=os.cpu_count() or 1, **self._store.space()), b""

    def _has(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        return {"missing": [digest for digest in request["models"] if not self._store.has(digest)]}, b""

    def _put(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        self._store.put(str(request["model"]), request["files"], payload.read)
        return {}, b""

    def _load(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        model = self._model(request["model"], request)
        return {"inputs": model.specs(), "outputs": model.outputs}, b""

    def _run(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        numpy = _import("numpy")
        outputs = self._model(request["model"], request).run(_arrays(payload))
        buffer = io.BytesIO()
        numpy.savez(buffer, **{"output_%d" % index: array for index, array in enumerate(outputs)})
        return {"outputs": len(outputs)}, buffer.getvalue()

    def _time(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        candidate = self._model(request["candidate"], request)
        reference = self._model(request["reference"], request)
        arrays = _arrays(payload)
        count = len(candidate.inputs)
        calls = candidate.bound_call(arrays[:count]), reference.bound_call(arrays[count:])
        before = agent_facts.sensors()
        result = rounds.compare(calls[0], calls[1], request["policy"], on_round=self._check)
        result["sensors"] = {"before": before, "after": agent_facts.sensors()}
        return result, b""

    def _memory(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        """Peak of this process while it loads and runs a model; only right in a fresh one.

        The baseline is what is resident right before loading where the system lets a process reset its own peak, else
        the peak until then, as for a process of this machine.
        """
        _import("onnxruntime")
        arrays = _arrays(payload)
        gc.collect()
        reset = _reset_peak()
        baseline = _status_bytes("VmRSS" if reset else "VmHWM")
        model = self._model(request["model"], request)
        for _ in range(_MEMORY_RUNS):
            model.run(arrays)
        word = "resident memory after importing ONNX Runtime" if reset else "peak until ONNX Runtime was imported"
        return {"baseline_bytes": baseline, "peak_bytes": _status_bytes("VmHWM"), "baseline": word}, b""

    def _which(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        """Where a program of the board is, and the digest of its file."""
        places = [os.path.expanduser(str(place)) for place in request.get("places", [])]
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *places])
        found = shutil.which(str(request["program"]), path=path)
        return {"path": found, "sha256": file_digest(found) if found else None}, b""

    def _exec(self, request: Mapping[str, Any], payload: BinaryIO) -> Answer:
        """Run a tool of the board: a list of arguments, never a shell's line."""
        files = request.get("files", {})
        paths = {name: self._path(digest, files.get(name)) for name, digest in request["models"].items()}
        makes, needs = (paths.get(request.get(key) or "") for key in ("makes", "needs"))
        if makes and os.path.exists(makes):
            return {"exit": 0}, b""
        if needs and not os.path.exists(needs):
            return {"exit": _FILE_GONE}, b""
        if makes:
            # Under its name stands a whole file or none.
            paths[request["makes"]] = "%s.%d" % (makes, os.getpid())
        paths.update(request.get("values", {}))
        argv = [_filled(str(argument), paths) for argument in request["argv"]]
        # The tool inherits the cores.
        self._pin(request.get("affinity"))
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._store.folder,
            )
        except OSError as error:
            raise AgentError("device", "%s cannot be run: %s" % (argv[0], error.strerror)) from error
        end = time.time() + float(request["timeout_seconds"])
        while True:
            try:
                output = process.communicate(timeout=0.5)[0]
                break
            except subprocess.TimeoutExpired:
                if self._gone() or time.time() > end:
                    _kill_group(process)
                    if self._gone():
                        raise SystemExit(0) from None
                    raise AgentError(
                        "model", "%s took more than %s s" % (argv[0], request["timeout_seconds"])
                    ) from None
        if makes and process.returncode == 0:
            if not os.path.exists(paths[request["makes"]]):
                raise AgentError("model", "%s wrote no %s" % (argv[0], request["makes"]))
            os.replace(paths[request["makes"]], makes)
        return {"exit": process.returncode, "sensors": agent_facts.sensors()}, output[-_LONGEST_OUTPUT:]

    def _model(self, digest: str, request: Mapping[str, Any]) -> Model:
        about = [digest, request["threads"], request.get("entries", {}), request.get("affinity")]
        key = json.dumps(about, sort_keys=True)
        # A model's own threads stay on the cores where they are started, so it is loaded there.
        self._pin(request.get("affinity"))
        model = self._loaded.pop(key, None)
        if model is None:
            model = Model(self._path(digest), request)
        self._loaded[key] = model
        while len(self._loaded) > _LOADED:
            self._loaded.popitem(last=False)
        return model

    def _path(self, digest: str, name: Optional[str] = None) -> str:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise AgentError("protocol", "a file beside a model may not be called %r" % name[:80])
        try:
            return os.path.join(self._store.path(digest), name or "model.onnx")
        except KeyError:
            raise AgentError("missing", "model %s is not on this board" % digest) from None

    def _pin(self, cores: Optional[List[int]]) -> None:
        """Go on on these cores, or on all that the agent was started with."""
        if self._cores is None:
            if cores:
                raise AgentError("device", "this system cannot keep a process on chosen cores")
            return
        missing = sorted(set(cores or ()) - self._cores)
        if missing:
            told = ",".join(map(str, missing)), ",".join(map(str, sorted(self._cores)))
            raise AgentError("device", "cores %s cannot be used, there are %s" % told)
        os.sched_setaffinity(0, cores or self._cores)

    def _check(self, done: int) -> None:
        """Nobody waits for the rest of a comparison once the connection is lost."""
        if self._gone():
            raise SystemExit(0)


def serve(source: BinaryIO, sink: BinaryIO, folder: str, lock: str, limit_bytes: int) -> None:
    """Answer requests until the source ends."""
    current = [None]  # type: List[Optional[int]]

    def send(message: Dict[str, Any], data: bytes = b"") -> None:
        if data:
            message["bytes"] = len(data)
        sink.write(json.dumps(message).encode() + b"\n" + data)
        sink.flush()

    def gone() -> bool:
        readable = select.select([source], [], [], 0)[0]
        return bool(readable) and not source.peek(1)  # type: ignore[attr-defined]

    agent = Agent(Store(folder, limit_bytes), lock, lambda event: send(dict(event, id=current[0])), gone)
    send({"autocompress": "ready", "pid": os.getpid()})
    while True:
        line = source.readline(_LONGEST_LINE)
        if not line:
            return
        if not line.endswith(b"\n"):
            send({"id": None, "ok": False, "kind": "protocol", "error": "a request of more than 1 MiB, or half of one"})
            return
        payload = _Payload(source, 0)
        try:
            request = _parsed(line)
            current[0] = request.get("id")
            payload = _Payload(source, int(request.get("bytes", 0)))
            result, data = agent.answer(request, payload)  # type: ignore[arg-type]
            message = {"id": current[0], "ok": True, "result": result}  # type: Dict[str, Any]
        except AgentError as error:
            message, data = {"id": current[0], "ok": False, "kind": error.kind, "error": str(error)}, b""
        except Exception as error:  # an agent answers whatever happens
            reason = "%s: %s" % (type(error).__name__, _first_line(error))
            message, data = {"id": current[0], "ok": False, "kind": "agent", "error": reason}, b""
        while payload.left:
            if not payload.read(1 << 20):
                return
        send(message, data)


class _Payload:
    """The bytes behind one request."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self.left = size

    def read(self, size: int = -1) -> bytes:
        """Up to so many of them; all that are left where negative."""
        wanted = self.left if size < 0 else min(size, self.left)
        parts = []
        while wanted:
            chunk = self._source.read(min(wanted, 1 << 20))
            if not chunk:
                break
            wanted -= len(chunk)
            self.left -= len(chunk)
            parts.append(chunk)
        return b"".join(parts)


def _parsed(line: bytes) -> Dict[str, Any]:
    try:
        request = json.loads(line.decode("utf-8"))
    except ValueError:
        raise AgentError("protocol", "a request is a line of JSON, but got %r" % line[:80]) from None
    if not isinstance(request, dict):
        raise AgentError("protocol", "a request is a JSON object, but got a %s" % type(request).__name__)
    return request


def _arrays(payload: BinaryIO) -> List[Any]:
    """The arrays of an npz file, in order; nothing in it is unpickled."""
    numpy = _import("numpy")
    try:
        with numpy.load(io.BytesIO(payload.read()), allow_pickle=False) as file:
            return [file["input_%d" % index] for index in range(len(file.files))]
    except Exception as error:
        raise AgentError("input", "the inputs are no npz file of plain arrays: %s" % _first_line(error)) from error


def _filled(argument: str, values: Mapping[str, str]) -> str:
    """The argument with what it names in braces; doubled braces stand for themselves."""
    return argument.format(**values)


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise AgentError("device", "%s is not installed for this Python" % name) from None


def _reset_peak() -> bool:
    """Make the peak of this process its present resident memory, proc(5); whether the system does."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int:
    for line in agent_facts.read("/proc/self/status").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AgentError("device", "this system does not tell how much memory a process takes; Linux does")


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        process.kill()
    process.communicate()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _NOISE.sub("", lines[0])[:500]


def main(arguments: Optional[List[str]] = None) -> None:
    """Serve on standard input and output; what libraries print goes to standard error."""
    parser = argparse.ArgumentParser(prog="autocompress-agent")
    parser.add_argument("--folder", required=True, help="where models are kept")
    parser.add_argument("--lock", required=True, help="path of the board's lock")
    parser.add_argument("--limit-bytes", type=int, default=2 << 30, help="of all models together")
    options = parser.parse_args(arguments)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink, options.folder, options.lock, options.limit_bytes)


if __name__ == "__main__":
    main()
