"""A vendor's tool that times models, as a profile describes it."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

#: Outputs that are understood; ``regex`` is any line that :attr:`ToolCommand.pattern` finds.
OUTPUTS = ("trtexec", "benchmark_model", "benchncnn", "onnxruntime_perf_test", "regex")
MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
#: What arguments may name in braces.
PLACEHOLDERS = ("model", "engine", "threads", "shape")
#: Kinds of files that tools read, with the suffixes of their names.
READS = {"onnx": (".onnx",), "tflite": (".tflite",), "ncnn": (".param",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCommand:
    """How a tool is run on a device and where its output tells the latency.

    Args:
        argv: the program and its arguments; ``{model}``, ``{engine}``, ``{threads}`` and ``{shape}`` stand for a file,
            what ``build`` made of it, the number of threads, and the input of an ncnn network as
            ``[width,height,channels]``. No shell reads them.
        output: one of :data:`OUTPUTS`.
        pattern: for ``regex``: a regular expression, its group ``latency`` (or its first) is a number; every place it
            matches is one sample.
        unit: of that number, one of :data:`MILLISECONDS`.
        build: run once a model before it is timed; writes ``{engine}``.
        version: run once; the first line that holds a digit names the version.
        timeout_seconds: of one run.
        reads: kind of file, one of :data:`READS`.
        fp16: further arguments for a model that computes in float16: of ``build``, or of ``argv`` where nothing is
            built.
        int8: likewise for a model with quantized layers.
        two_to_four: likewise on hardware with kernels for 2:4 sparse weights.
        places: folders on the device where the programs are looked for after ``PATH``.
        install: what to do where they are in none of these.
    """

    argv: tuple[str, ...]
    output: str
    pattern: str | None = None
    unit: str = "ms"
    build: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    timeout_seconds: float = 600.0
    reads: str = "onnx"
    fp16: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    two_to_four: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    install: str = ""

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("`argv` must name a program.")
        if self.output not in OUTPUTS:
            raise ValueError(f"`output` must be one of {', '.join(OUTPUTS)}, but got {self.output!r}.")
        if self.unit not in MILLISECONDS:
            raise ValueError(f"`unit` must be one of {', '.join(MILLISECONDS)}, but got {self.unit!r}.")
        if self.reads not in READS:
            raise ValueError(f"`reads` must be one of {', '.join(READS)}, but got {self.reads!r}.")
        if (self.output == "regex") != (self.pattern is not None):
            raise ValueError("`pattern` goes with `output: regex`, and with nothing else.")
        if self.timeout_seconds <= 0:
            raise ValueError(f"`timeout_seconds` must be more than 0, but got {self.timeout_seconds}.")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"`pattern` is no regular expression: {error}.") from error
            if not groups:
                raise ValueError(f"`pattern` needs a group for the latency, but got {self.pattern!r}.")
        parts = (*self.argv, *self.build, *self.fp16, *self.int8, *self.two_to_four)
        used = {name for part in parts for name in names_in(part)}
        unknown = used - set(PLACEHOLDERS)
        if unknown:
            raise ValueError(f"arguments may name {', '.join(PLACEHOLDERS)} in braces, but got {sorted(unknown)}.")
        if not used & {"model", "engine"}:
            raise ValueError("`argv` must name {model} or {engine}.")
        if "shape" in used and self.reads != "ncnn":
            raise ValueError("{shape} goes with `reads: ncnn`.")
        if ("engine" in used) != bool(self.build) or (self.build and not _writes_engine(self.build)):
            raise ValueError("{engine} in `argv` goes with a `build` that names it too.")


def names_in(argument: str) -> list[str]:
    """What an argument names in braces.

    Raises:
        ValueError: braces without a partner; literal ones are doubled.
    """
    return [name for _, name, _, _ in string.Formatter().parse(argument) if name is not None]


def _writes_engine(build: tuple[str, ...]) -> bool:
    return any("engine" in names_in(part) for part in build)
