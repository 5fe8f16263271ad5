"""Targets: one YAML file each under ``hardware_profiles``, and ``local``, which is made from the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    RootModel,
    StringConstraints,
    field_validator,
    model_validator,
)

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import TargetError, UnknownNameError
from autocompress.core.target import Capability, Fact, Precision, RuntimeSpec, Target
from autocompress.core.tool import ToolCommand
from autocompress.hardware.capabilities import CLASS_KEYS, onnxruntime_spec
from autocompress.hardware.data_files import data_folder, data_names, load_yaml
from autocompress.hardware.host import HostFacts, host_facts
from autocompress.hardware.tvm_capabilities import tvm_spec

FOLDER = "hardware_profiles"
LOCAL = "local"
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FactEntry(_Strict):
    """A value and where it comes from."""

    value: float | str
    unit: str = ""
    source: Text


class Multiple(_Strict):
    """A channel multiple and where it comes from."""

    value: PositiveInt
    source: Text


class Positive(_Strict):
    """A positive number and where it comes from."""

    value: PositiveFloat
    source: Text


class Flag(_Strict):
    """Whether something is so, and where that comes from."""

    value: bool
    source: Text


class PrecisionEntry(_Strict):
    """What a runtime does with a precision: it has a peak, it is like another precision, or it is refused."""

    refused: Text | None = None
    like: Precision | None = None
    peak_gops: PositiveFloat | None = None
    fallback_gops: PositiveFloat | None = None
    efficiency: Share = 0.5
    classes: Mapping[Literal["pointwise", "depthwise", "gemm"], Share] = Field(default_factory=dict)
    remark: str = ""
    source: Text

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("refused", "like", "peak_gops") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of `refused`, `like` and `peak_gops` is needed, not {given or 'none'}")
        if self.fallback_gops is not None and self.refused is None:
            raise ValueError("`fallback_gops` is the rate of what runs a refused precision: it needs `refused`")
        return self


class CommandEntry(_Strict):
    """A tool that times models; see :class:`~autocompress.core.tool.ToolCommand` for what the keys mean."""

    argv: Annotated[tuple[Text, ...], Field(min_length=1)]
    output: Literal["trtexec", "benchmark_model", "benchncnn", "onnxruntime_perf_test", "regex"]
    pattern: Text | None = None
    unit: Literal["s", "ms", "us", "ns"] = "ms"
    build: tuple[Text, ...] = ()
    version: tuple[Text, ...] = ()
    timeout_seconds: PositiveFloat = 600.0
    reads: Literal["onnx", "tflite", "ncnn"] = "onnx"
    fp16: tuple[Text, ...] = ()
    int8: tuple[Text, ...] = ()
    two_to_four: tuple[Text, ...] = ()
    places: tuple[Text, ...] = ()
    install: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.command()
        return self

    def command(self) -> ToolCommand:
        """The tool as the runtime wants it."""
        return ToolCommand(**self.model_dump(exclude={"source"}))


class ToolsFile(RootModel[Mapping[str, CommandEntry]]):
    """Tools by the name under which profiles refer to them."""


class CompileEntry(_Strict):
    """What a compiler has to know; see :class:`~autocompress.core.compile_target.CompileTarget` for the keys."""

    kind: Literal["llvm", "cuda", "opencl", "vulkan"] = "llvm"
    triple: Text
    mcpu: Text | None = None
    features: tuple[Text, ...] = ()
    arch: Text | None = None
    source: Text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.compile_target()
        return self

    def compile_target(self) -> CompileTarget:
        """The processor as the runtime wants it."""
        given = {name: value for name, value in self.model_dump(exclude={"source"}).items() if value is not None}
        return CompileTarget(**given)


class RuntimeEntry(_Strict):
    """One runtime of a profile."""

    threads: PositiveInt = 1
    activation_type: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    two_to_four: Flag | None = None
    compile_target: CompileEntry | None = None
    command: CommandEntry | None = None
    launch_overhead_us: Positive
    channel_multiple: Mapping[Precision, Multiple]
    precisions: Mapping[Precision, PrecisionEntry]
    operators: Mapping[str, Mapping[Precision, PrecisionEntry]] = Field(default_factory=dict)
    estimate_error_factor: Positive | None = None

    @field_validator("command", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A tool may stand under its name instead of in full."""
        if not isinstance(value, str):
            return value
        if value not in tools():
            raise ValueError(f"there is no such tool; known: {', '.join(tools())}")
        return tools()[value]

    @model_validator(mode="after")
    def _refers_to_known(self) -> Self:
        for entries in (self.precisions, *self.operators.values()):
            for precision, entry in entries.items():
                like = self.precisions.get(entry.like) if entry.like else None
                if entry.like and (like is None or like.like is not None):
                    raise ValueError(f"{precision} is like {entry.like}, which has no peak of its own")
        return self


class NoteEntry(_Strict):
    """A trap worth knowing."""

    text: Text
    source: Text


class ProfileFile(_Strict):
    """A whole profile."""

    name: Text
    title: Text
    facts: Mapping[str, FactEntry]
    runtimes: Annotated[Mapping[str, RuntimeEntry], Field(min_length=1)]
    notes: tuple[NoteEntry, ...] = ()

    @model_validator(mode="after")
    def _has_bandwidth(self) -> Self:
        bandwidth = self.facts.get("memory_bandwidth_gb_per_s")
        if bandwidth is None or not isinstance(bandwidth.value, float) or bandwidth.value <= 0:
            raise ValueError("`facts.memory_bandwidth_gb_per_s` must be a positive number")
        return self


@cache
def tools() -> Mapping[str, CommandEntry]:
    """Vendors' tools that time models, by name."""
    return load_yaml(Path(__file__).parent / "data" / "tools.yaml", ToolsFile, TargetError).root


def target_names() -> tuple[str, ...]:
    """Every target: ``local``, then those with a profile."""
    return (LOCAL, *data_names(FOLDER))


def load_target(name: str) -> Target:
    """A target by name.

    Raises:
        UnknownNameError: nothing is called that.
        TargetError: its profile is malformed.
    """
    if name == LOCAL:
        return local_target()
    if name not in target_names():
        raise UnknownNameError("target", name, target_names())
    return read_profile(data_folder(FOLDER) / f"{name}.yaml")


def read_profile(path: Path) -> Target:
    """A target from a profile file.

    Raises:
        TargetError: the file cannot be read or is malformed.
    """
    profile = load_yaml(path, ProfileFile, TargetError)
    if profile.name != path.stem:
        raise TargetError(f"{path.name}: `name` must be {path.stem!r} like the file, but got {profile.name!r}.")
    facts = {key: Fact(value=f.value, unit=f.unit, source=f.source) for key, f in profile.facts.items()}
    for runtime, entry in profile.runtimes.items():
        facts.update(_runtime_facts(runtime, entry))
    return Target(
        name=profile.name,
        title=profile.title,
        facts=facts,
        runtimes={name: _runtime(name, entry) for name, entry in profile.runtimes.items()},
        notes=tuple(f"{note.text} [{note.source}]" for note in profile.notes),
    )


def local_target(probe: Mapping[str, Any] | None = None, host: HostFacts | None = None) -> Target:
    """The machine the program runs on.

    Args:
        probe: what was measured to be fast here, see :func:`~autocompress.hardware.capabilities.onnxruntime_spec`;
            None where nothing was.
        host: facts of the machine; read from it where None.
    """
    # Of this machine TVM knows more than its facts tell.
    processor = CompileTarget() if host is None else CompileTarget(triple=f"{host.machine}-linux-gnu")
    host = host or host_facts()
    read = "read from the operating system"
    facts = {
        "cpu": Fact(value=host.cpu, source=read),
        "cores": Fact(value=host.cores, source="affinity and container limits of this process"),
        "instruction_sets": Fact(value=", ".join(host.isa) or "unknown", source=read),
        "memory_bytes": Fact(value=host.memory_bytes, unit="bytes", source=read),
        "system": Fact(value=f"{host.system} {host.machine}", source=read),
        "memory_bandwidth_gb_per_s": Fact(
            value=15.0, unit="GB/s", source="unverified: a usual figure for one core of a desktop or server"
        ),
    }
    if host.board:
        facts["board"] = Fact(value=host.board, source=read)
    if host.clock_ghz:
        facts["clock_ghz"] = Fact(value=host.clock_ghz, unit="GHz", source=read)
    notes = []
    if probe:
        measured = f"measured on it with ONNX Runtime {probe.get('version', '')}".rstrip()
        for key, unit in (("int8_ratio", "1"), ("fp16_ratio", "1"), ("activation_type", "")):
            if probe.get(key) is not None:
                facts[f"onnxruntime.{key}"] = Fact(value=probe[key], unit=unit, source=measured)
        if probe.get("calm") is False:
            notes.append("The machine was busy while int8 and float16 were timed: run again when it is calm.")
    spec = onnxruntime_spec(isa=host.isa, clock_ghz=host.clock_ghz, threads=1, probe=probe)
    compiled = tvm_spec(isa=host.isa, clock_ghz=host.clock_ghz, threads=1, compile_target=processor)
    return Target(
        name=LOCAL,
        title=f"this machine: {host.board or host.cpu}, {host.cores} core{'s' * (host.cores != 1)}",
        facts=facts,
        runtimes={spec.name: spec, compiled.name: compiled},
        notes=tuple(notes),
    )


def _runtime(name: str, entry: RuntimeEntry) -> RuntimeSpec:
    capabilities: dict[tuple[str, Precision], Capability] = {}
    for precision, item in entry.precisions.items():
        capabilities.update({(key, precision): value for key, value in _capabilities(item, entry)})
    for operator, items in entry.operators.items():
        for precision, item in items.items():
            capabilities[operator, precision] = dict(_capabilities(item, entry))["*"]
    return RuntimeSpec(
        name=name,
        capabilities=capabilities,
        channel_multiple={precision: multiple.value for precision, multiple in entry.channel_multiple.items()},
        activation_type=entry.activation_type,
        launch_overhead_us=entry.launch_overhead_us.value,
        threads=entry.threads,
        reduce_range=entry.reduce_range,
        two_to_four=entry.two_to_four is not None and entry.two_to_four.value,
        command=None if entry.command is None else entry.command.command(),
        compile_target=None if entry.compile_target is None else entry.compile_target.compile_target(),
    )


def _capabilities(item: PrecisionEntry, runtime: RuntimeEntry) -> Iterator[tuple[str, Capability]]:
    """Capabilities by key: the default one and one for each kind of layer that differs."""
    like = runtime.precisions[item.like] if item.like is not None else item
    if item.refused or like.refused:
        reason, rate = item.refused or like.refused or "", item.fallback_gops or like.fallback_gops
        yield "*", Capability(supported=False, reason=reason, peak_gops=rate)
        return
    efficiencies = [("*", like.efficiency)]
    efficiencies += [(key, share) for name, share in like.classes.items() for key in CLASS_KEYS[name]]
    for key, efficiency in efficiencies:
        yield key, Capability(supported=True, reason=item.remark, peak_gops=like.peak_gops, efficiency=efficiency)


def _runtime_facts(name: str, entry: RuntimeEntry) -> dict[str, Fact]:
    """What the profile says of a runtime, as facts, so that every figure is shown with its source."""
    facts = {
        f"{name}.launch_overhead_us": Fact(
            value=entry.launch_overhead_us.value, unit="us", source=entry.launch_overhead_us.source
        )
    }
    if entry.estimate_error_factor is not None:
        factor = entry.estimate_error_factor
        facts[f"{name}.estimate_error_factor"] = Fact(value=factor.value, unit="x", source=factor.source)
    if entry.two_to_four is not None:
        facts[f"{name}.two_to_four"] = Fact(
            value="yes" if entry.two_to_four.value else "no", source=entry.two_to_four.source
        )
    if entry.compile_target is not None:
        said = str(entry.compile_target.compile_target())
        facts[f"{name}.compile_target"] = Fact(value=said, source=entry.compile_target.source)
    for precision, multiple in entry.channel_multiple.items():
        facts[f"{name}.{precision}.channel_multiple"] = Fact(
            value=multiple.value, unit="channels", source=multiple.source
        )
    for precision, item in entry.precisions.items():
        if item.peak_gops is not None:
            facts[f"{name}.{precision}.peak_gops"] = Fact(value=item.peak_gops, unit="GOP/s", source=item.source)
        else:
            kind = "refused" if item.refused else f"like {item.like}"
            facts[f"{name}.{precision}"] = Fact(value=kind, source=item.source)
    return facts
