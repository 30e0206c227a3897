"""What decides the design on a GPU, measured in under eight minutes: `benchmarks/gpu.sh` runs this file.

    python benchmarks/gpu.py [--pair resnet56-20] [--minutes 7.5] [--device cuda] [--quick] [--write]

It needs torch, NumPy and PyYAML. Measured on noise of the shape of CIFAR-10, sides in turns, by CUDA events:
steps as they are, as a CUDA graph and under torch.compile, in fp32 and bf16, with a live teacher and with the view
cache in device memory; whether graphs give the losses of eager steps; several trainings at once, as processes and as
graphs on streams; and latency. A part that fails or for which no time is left says so, and the others go on.

`--device cpu --quick` runs every part on a CPU, to see that it runs: what it prints there means nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from pairs import PAIRS, Scene, Side, network
from torch import Tensor

from kdbench.train import graphs
from kdbench.train.engine import Engine
from kdbench.train.measure import latency

Step = Callable[[], dict[str, Tensor]]
STEPS = 20  # in one sample
CLOSE = 1e-3  # relative difference of losses, graph and eager, after some steps in fp32


class Part:
    """One part of the report: its title, and lines that fill up while it runs."""

    def __init__(self, title: str) -> None:
        self.lines = [f"## {title}"]

    def say(self, text: str) -> None:
        """Add a paragraph or a table."""
        self.lines.append(text)


class Bench:
    """What all parts share. quick: as few steps as possible."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.device = torch.device(options.device)
        self.pair, self.batch, self.quick, self.folder = options.pair, options.batch, options.quick, folder
        self.steps, self.rounds = (2, 1) if self.quick else (STEPS, 5)
        self.ends = time.monotonic() + 60 * options.minutes

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self.ends - time.monotonic()

    def scene(self, pair: str | None = None) -> Scene:
        """A pair on the device."""
        return Scene(pair or self.pair, self.batch, self.folder, self.device, 512 if self.quick else 4096)

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], times: int) -> float:
        """Seconds of one call of `work`, of so many in a row; by CUDA events on a GPU."""
        if self.device.type != "cuda":
            return measuring.timed(lambda: [work() for _ in range(times)]) / times
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(times):
            work()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1000 / times


def on_cpu(body: Callable[[], graphs.Terms]) -> tuple[Callable[[], object], graphs.Terms]:
    """In place of a CUDA graph, where there is no GPU: replays the function itself."""
    terms: graphs.Terms = {}
    return lambda: terms.update(body()), terms


def as_graph(scene: Scene, side: Side) -> tuple[Step, graphs.GraphedStep]:
    """The steps of a side as a graph, recorded; and what made them, whose `reason` says why not if they are eager."""
    recorder = graphs.record_cuda if scene.device.type == "cuda" else on_cpu
    run = scene.training(side.engined(step="eager"))  # it would look for a GPU
    run.graph = made = graphs.GraphedStep(run, recorder)
    part = slice(0, scene.batch)

    def step() -> dict[str, Tensor]:
        return run.step(scene.index[part], scene.view[part], torch.Generator(), 0.5)

    for _ in range(graphs.WARM_UP + 2):
        step()
    return step, made


def engines() -> dict[str, Engine]:
    """Engines by what tells them apart."""
    return {f"{precision} {step}": Engine(precision, step=step) for precision in ("fp32", "bf16")
            for step in ("eager", "graph")}  # fmt: skip


def steps(bench: Bench) -> Iterator[Part]:
    """Eager steps, graphs and compiled steps, with the view cache and with a live teacher."""
    for cached in (True, False):
        part = Part(f"Steps of {bench.pair}, {'view cache in device memory' if cached else 'live teacher'}")
        scene, sides, notes = bench.scene(), {}, []
        for name, engine in engines().items():
            side = Side(engine, cached)
            if engine.step == "graph":
                began = time.perf_counter()
                sides[name], made = as_graph(scene, side)
                notes.append(f"{name}: {made.reason or f'recorded in {time.perf_counter() - began:.2f} s'}")
            else:
                sides[name] = scene.stepper(side)
        if not bench.quick or cached:
            for precision in ("fp32",) if bench.quick else ("fp32", "bf16"):
                name = f"{precision} compile"
                try:
                    began = time.perf_counter()
                    sides[name] = scene.stepper(Side(Engine(precision, compile="on"), cached))
                    sides[name]()
                    notes.append(f"{name}: first step after {time.perf_counter() - began:.1f} s")
                except Exception as error:  # whatever a compiler lacks here is a result, too
                    sides.pop(name, None)
                    notes.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
        found = measuring.interleaved(
            {name: lambda step=step: bench.seconds(step, bench.steps) for name, step in sides.items()}, bench.rounds
        )
        reference = found["fp32 eager"]
        rows = [
            [name, measuring.Spread.of([1000 * s for s in taken]).text(3), measuring.ratios(reference, taken).text(),
             f"{3600 / statistics.median(taken):,.0f}"]
            for name, taken in found.items()
        ]  # fmt: skip
        part.say(measuring.table(["step", "ms (min to max)", "times faster than fp32 eager", "steps an hour"], rows))
        part.say("\n".join(f"- {note}" for note in notes))
        if bench.device.type == "cuda":
            part.say(f"Peak of device memory: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB.")
        yield part


def equality(bench: Bench) -> Iterator[Part]:
    """Losses of graph and eager steps from the same start, on the same batches."""
    part = Part("Graph and eager steps from the same start")
    rows = []
    for precision in ("fp32", "bf16"):
        losses = []
        for step in ("eager", "graph"):
            scene = bench.scene()
            run = scene.training(Side(Engine(precision), cached=True))
            if step == "graph":
                run.graph = graphs.GraphedStep(run, graphs.record_cuda if bench.device.type == "cuda" else on_cpu)
            made = []
            for number in range(8 if bench.quick else 60):
                low = number * scene.batch % (scene.count - scene.batch)
                own = slice(low, low + scene.batch)
                run.set_lr(number / 60)
                made.append(run.step(scene.index[own], scene.view[own], torch.Generator(), number / 60)["loss"].clone())
            losses.append(torch.stack(made).double().cpu())
            reason = run.graph.reason if run.graph is not None else ""
        worst = float(((losses[1] - losses[0]).abs() / losses[0].abs()).max())
        rows.append([precision, len(losses[0]), f"{worst:.2g}", reason or "recorded",
                     "yes" if worst <= CLOSE else "no"])  # fmt: skip
    part.say(measuring.table(["precision", "steps", "largest relative difference", "graph", f"within {CLOSE:g}"], rows))
    yield part


def cache(bench: Bench) -> Iterator[Part]:
    """Filling and reading the view cache."""
    part, scene = Part("The view cache"), bench.scene()
    began = time.perf_counter()
    teacher = scene.cache()
    bench.sync()
    filled = time.perf_counter() - began
    own = slice(0, scene.batch)
    images = scene.views.batch(scene.index[own], scene.view[own])
    live = scene.live(Engine())
    sides: dict[str, Callable[[], object]] = {
        "look a batch up": lambda: teacher(images, scene.index[own], scene.view[own]),
        "teacher live, fp32, folded": lambda: live(images, scene.index[own], scene.view[own]),
        "gather the images": lambda: scene.views.batch(scene.index[own], scene.view[own]),
    }
    found = measuring.interleaved(
        {name: lambda work=work: bench.seconds(work, bench.steps) for name, work in sides.items()}, bench.rounds
    )
    rows = [[name, measuring.Spread.of([1000 * s for s in taken]).text(3)] for name, taken in found.items()]
    part.say(measuring.table([f"a batch of {scene.batch}", "ms (min to max)"], rows))
    resident = teacher.cache._resident is not None
    part.say(
        f"{scene.count:,} views filled in {filled:.2f} s, opening and checking included. In device memory: "
        f"{'yes' if resident else 'no'}; the table has {teacher.cache.bytes / 2**20:.0f} MiB."
    )
    yield part


def together(bench: Bench) -> Iterator[Part]:
    """Several trainings at once on one device: processes, and graphs on streams of one process."""
    part = Part("Several trainings at once on one device")
    counts = (1, 2) if bench.quick else (1, 2, 4, 8)
    rows = []
    for step in ("eager", "graph"):
        for count in counts:
            if bench.left_s < 40:
                part.say(f"{count} processes, {step}: left out, for no time was left.")
                continue
            rows.append([f"{count} processes, {step}", f"{processes(bench, count, step):,.1f}"])
    for count in counts:
        rows.append([f"{count} graphs on streams, one process", f"{streams(bench, count):,.1f}"])
    part.say(measuring.table(["trainings", "steps/s in all"], rows))
    yield part


def processes(bench: Bench, count: int, step: str) -> float:
    """Steps per second of so many processes together, each with a training of its own."""
    seconds = 1.0 if bench.quick else 4.0
    command = [sys.executable, __file__, "--child", step, "--seconds", str(seconds), "--device", bench.device.type,
               "--pair", bench.pair, "--batch", str(bench.batch), *(["--quick"] if bench.quick else [])]  # fmt: skip
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for child in children:
            told(child)  # it is ready
        for child in children:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        return sum(float(told(child)) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def told(child: subprocess.Popen[str]) -> str:
    """The next line of a child. Raise RuntimeError if it has ended."""
    line = child.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise RuntimeError(f"a training beside others ended with status {child.wait()}")
    return line


def child(bench: Bench, step: str, seconds: float) -> None:
    """One of several processes: get ready, wait for the word, and say how many steps a second were made."""
    side = Side(Engine("bf16" if bench.device.type == "cuda" else "fp32"), cached=True)
    scene = bench.scene()
    run = as_graph(scene, side)[0] if step == "graph" else scene.stepper(side)
    for _ in range(2):
        run()
    bench.sync()
    print("ready", flush=True)
    sys.stdin.readline()
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(bench.steps):
            run()
        bench.sync()
        made += bench.steps
    print(made / (time.perf_counter() - began), flush=True)


def streams(bench: Bench, count: int) -> float:
    """Steps per second of so many graphs of one process together, each on a stream of its own."""
    side = Side(Engine("bf16" if bench.device.type == "cuda" else "fp32"), cached=True)
    scene = bench.scene()
    runs = [as_graph(scene, side)[0] for _ in range(count)]
    own: Sequence[Any] = [torch.cuda.Stream() for _ in runs] if bench.device.type == "cuda" else [None] * count
    bench.sync()
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < (1.0 if bench.quick else 4.0):
        for _ in range(bench.steps):
            for run, stream in zip(runs, own, strict=True):
                with torch.cuda.stream(stream):
                    run()
        bench.sync()
        made += bench.steps * count
    return made / (time.perf_counter() - began)


def latencies(bench: Bench) -> Iterator[Part]:
    """Latency of the student alone."""
    part = Part("Latency of the student")
    kinds = [torch.float32, *([torch.bfloat16] if bench.device.type == "cuda" else [])]
    rows = []
    for kind in kinds:
        result, _ = latency(
            network(PAIRS[bench.pair][1]), (3, 32, 32), device=bench.device,
            **({"max_s": 0.5} if bench.quick else {}), dtype=kind,
        )  # fmt: skip
        rows += [[str(kind).removeprefix("torch."), name, f"{value:.3f}"] for name, value in result.items()]
    part.say(measuring.table(["dtype", "what", "ms"], rows))
    yield part


PARTS: Mapping[str, Callable[[Bench], Iterator[Part]]] = {
    "equality": equality, "steps": steps, "cache": cache, "latency": latencies, "together": together,
}  # fmt: skip


def report(bench: Bench, names: Sequence[str]) -> list[str]:
    """All parts, one after the other; what fails is told in its place."""
    lines: list[str] = []
    for name in names:
        if bench.left_s < 30:
            lines.append(f"## {name}\n\nLeft out: the time was up.")
            continue
        began = time.monotonic()
        try:
            for part in PARTS[name](bench):
                lines += part.lines
        except Exception as error:  # on a GPU that nobody has tried, the other parts still count
            traceback.print_exc()
            lines.append(f"## {name}\n\nFailed: {type(error).__name__}: {' '.join(str(error).split())[:400]}")
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="resnet56-20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="as few steps as possible: whether it runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=4.0, help=argparse.SUPPRESS)
    measuring.add_write(parser, "gpu")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU that torch can use. Run this where there is one, or try the code: --device cpu --quick")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        if options.child:
            child(bench, options.child, options.seconds)
            return
        machine = measuring.Machine()
        machine.look()
        lines = report(bench, options.parts)
        machine.look()
    conditions = "\n".join(measuring.conditions(machine))
    quick = "Quick: these numbers mean nothing." if options.quick else ""
    about = f"Pair {options.pair}, batch {options.batch}, kd, noise of the shape of CIFAR-10. {quick}"
    measuring.publish(measuring.page("The step on a GPU", about, *lines, conditions), options.write)


if __name__ == "__main__":
    main()
