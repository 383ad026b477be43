#!/usr/bin/env python3
"""Checks flipk on this machine's GPU, and measures it and PyTorch with OpenCLIP's architecture in the same run.

    run.py OUTPUT_FOLDER [--quick] [--only PART ...] [--models b16 l16] [--device emulator]

Needs the driver, CUDA's libraries and python3 with PyTorch. Each part has a time limit and prints one line. Its output
goes to OUTPUT_FOLDER/PART.log, and the results of all parts to gpu.json and gpu.md. Several calls with one folder may
run different parts. Parts that check run in parallel while PyTorch compiles; parts that measure run one by one
afterwards. `--quick` measures fewer shapes: one batch for each model and ratio (at 0.75 also ratio 0's), and only the
ops of b16. `--device emulator` tests this script without a GPU (useful with the parts golden and reproducible).
"""

import argparse
import concurrent.futures
import datetime
import glob
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib

HERE = pathlib.Path(__file__).resolve().parent
SIZES = ["--image-size=64", "--patch-size=8", "--vision-layers=2", "--vision-width=128", "--vision-heads=2",
         "--text-layers=1", "--text-width=64", "--text-heads=1", "--embed-dim=64"]
TRAINING = ["--data=embedded:noto", "--eval-data=embedded:twemoji", *SIZES, "--log-every=1", "--batch=64", "--lr=1e-3"]


class Failed(Exception):
    """A part failed; the text is the line that is printed."""


class Peers:
    """PyTorch's steps: one process each, which compiles while other parts run and is timed later."""

    # Approximate GB of GPU memory per sample.
    PER_SAMPLE = {"b16": {0: 0.07, 0.5: 0.036, 0.75: 0.02}, "l16": {0: 0.17, 0.5: 0.09, 0.75: 0.048}}

    def __init__(self, run, cases, memory):
        self.free, self.total, self.late, self.changed = memory, memory, False, threading.Condition()
        self.log, self.processes, self.threads = open(run.out / "peer.log", "a"), {}, {}
        for case in cases:
            self.threads[case] = threading.Thread(target=self.compile, args=(case, run.environment), daemon=True)
            self.threads[case].start()

    def compile(self, case, environment):
        model, ratio, batch = case
        needed = min(self.PER_SAMPLE[model][ratio] * batch, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= needed or self.late)
            if self.late:
                return
            self.free -= needed
        command = [sys.executable, HERE / "peer.py", model, str(ratio), str(batch)]
        process = subprocess.Popen(command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=self.log)
        self.processes[case] = process
        while (line := process.stdout.readline()) and line != "ready\n":
            pass
        with self.changed:
            self.free += needed
            self.changed.notify_all()

    def wait(self, limit):
        """Waits until all have compiled, and ends those that take too long; then the machine is idle for measuring."""
        end = time.monotonic() + limit
        for case, thread in self.threads.items():
            thread.join(max(0, end - time.monotonic()))
            if thread.is_alive():
                with self.changed:
                    self.late = True
                    self.changed.notify_all()
                if case in self.processes:
                    self.processes[case].kill()

    def time(self, case, limit):
        """The result that the process prints, or one without a number."""
        process = self.processes.get(case)
        try:
            output = process.communicate("go\n", timeout=limit)[0] if process else ""
        except (subprocess.TimeoutExpired, OSError):
            output = ""
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return rows[0] if rows else dict(zip(["model", "mask_ratio", "batch"], case), samples_per_second=None)

    def end(self):
        for process in self.processes.values():
            process.kill()


class Run:
    def __init__(self, out, quick, device, models):
        self.programs = out / "programs"
        try:
            with tarfile.open(HERE / "programs.tar.gz") as packed:
                packed.extractall(self.programs)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            sys.exit(f"cannot unpack programs.tar.gz next to this script (tools/gpu/bundle makes it): {error}")
        self.out, self.quick, self.kind = out, quick, f"--device={device}"
        self.peers = None
        self.cases = [(model, ratio) for model in models for ratio in LARGEST[model]]
        saved = out / "gpu.json"
        self.results = json.loads(saved.read_text()) if saved.exists() else {}
        # cuBLASLt may be in PyTorch's packages instead of on the library path.
        folders = [folder for root in sys.path for folder in glob.glob(f"{root}/nvidia/*/lib")]
        self.environment = os.environ | {
            "LD_LIBRARY_PATH": ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *folders])),
            "XDG_CACHE_HOME": str(out / "cache"),
        }

    def call(self, part, command, limit, codes=(0,), **more):
        """Runs a command, appends its output to the part's log, and returns it."""
        environment = self.environment | more
        with open(self.out / f"{part}.log", "a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            try:
                done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      text=True, timeout=limit, env=environment, cwd=self.out)
            except subprocess.TimeoutExpired as late:
                log.write((late.stdout or b"").decode(errors="replace"))
                raise Failed(f"not done after {limit} s")
            log.write(done.stdout)
        if done.returncode not in codes:
            last = done.stdout.strip().splitlines()[-1:] or ["no output"]
            raise Failed(f"exit code {done.returncode}: {last[0]}")
        return done.stdout

    def device(self):
        fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
        values = self.call("device", ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 60)
        self.results["device"] = dict(zip(fields.split(","), values.strip().splitlines()[0].split(", ")))
        self.call("device", [self.programs / "flipk", "info"], 60)
        return self.results["device"]["name"]

    def profile(self, part, limit, *options, name=None):
        """A profile of the step as JSON."""
        file = self.out / f"{name or part}.json"
        command = [self.programs / "flipk", "profile", self.kind, "--data=embedded:noto", f"--json={file}", *options]
        self.call(part, command, limit)
        return json.loads(file.read_text())

    def ceilings(self):
        found = self.profile("ceilings", 300, "--ceilings", "--profile-steps=1", *SIZES, "--batch=64")
        self.results["ceilings"] = found["ceilings"]
        return "{:.0f} TFLOP/s, {:.2f} TB/s".format(found["ceilings"]["flops_per_second"] / 1e12,
                                                    found["ceilings"]["bytes_per_second"] / 1e12)

    def parity(self):
        # Compares every kernel with the CPU's op, and the GPU with the emulator on the same inputs.
        command = [self.programs / "kernel-tests", "--nocapture", "--skip=budget", "--test-threads=4"]
        output = self.call("parity", command, 600, FLIPK_TEST_DEVICE="cuda")
        differences = [float(value) for value in re.findall(r"emulator and GPU differ by ([0-9.e+-]+)", output)]
        largest = max(differences, default=None)
        self.results["parity"] = {"cases": len(differences), "largest_difference_from_emulator": largest}
        return f"{len(differences)} cases pass; GPU and emulator differ by at most {largest or 0:.1e}"

    def golden(self):
        if not (HERE / "golden.safetensors").exists():
            return "skipped: no golden state in the bundle"
        lines = []
        # In f32 everything must be within its tolerance. In bf16 a few late training losses may not be
        # (docs/architecture.md).
        for precision, codes in [("f32", (0,)), ("bf16", (0, 1))]:
            output = self.call("golden", [self.programs / "flipk", "verify", HERE / "golden.safetensors", self.kind,
                                          f"--precision={precision}"], 300, codes)
            lines.append(f"{precision}: {output.strip().splitlines()[-1]}")
        self.results["golden"] = lines
        return "; ".join(lines)

    def reproducible(self):
        """Trains 20 steps, twice and resumed from a checkpoint, and compares the bits of the weights."""
        with tempfile.TemporaryDirectory() as folder:
            def train(name, *options):
                self.call("reproducible", [self.programs / "flipk", "train", self.kind, *options], 300)
                return tensors(next(pathlib.Path(folder, name, "checkpoints").glob("*20.safetensors")))
            options = [*TRAINING, "--steps=20", "--save-every=10"]
            first = train("a", f"--out={folder}/a", *options)
            second = train("b", f"--out={folder}/b", *options)
            pathlib.Path(folder, "b", "checkpoints", "step-00000020.safetensors").unlink()
            resumed = train("b", f"--resume={folder}/b")
        same = first == second == resumed
        self.results["reproducible"] = same
        if not same:
            raise Failed("two equal runs, or a resumed one, gave different weights")
        return "20 steps, run twice and resumed after 10: bit-identical weights"

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if not tool or not (HERE / "golden.safetensors").exists():
            return "skipped: no compute-sanitizer, or no golden state"
        # racecheck slows a program down several hundred times, so it gets a single step.
        step = ["profile", *SIZES, "--data=embedded:noto", "--batch=8", "--profile-steps=1"]
        golden = ["verify", HERE / "golden.safetensors", "--precision=bf16"]
        # `verify` may exit with 1 in bf16, as in `golden`.
        for check, options, codes in [("memcheck", golden, (0, 1)), ("racecheck", step, (0,))]:
            command = [tool, f"--tool={check}", self.programs / "flipk", *options, self.kind]
            output = self.call("sanitizer", command, 300, codes)
            if not re.search(r"ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards", output):
                raise Failed(f"{check}: {output.strip().splitlines()[-1]}")
        self.results["sanitizer"] = True
        return "memcheck and racecheck find nothing"

    def benches(self):
        more = {"FLIPK_BENCH_DEVICE": "cuda", "FLIPK_BENCH_BATCH": "1024",
                "FLIPK_BENCH_JSON": str(self.out / "benches.json"), "FLIPK_BENCH_COMMIT": self.results["commit"]}
        filters = ["b16"] if self.quick else []
        self.call("benches", [self.programs / "op-benches", "--bench", "--noplot", *filters], 900, **more)
        found = json.loads((self.out / "benches.json").read_text())
        self.results["benches"] = found
        return f"{len(found['rows'])} ops measured"

    def points(self):
        """Model, ratio and batch of the steps that are compared with the peer."""
        batches = lambda largest: {min(1024, largest)} if self.quick else {1024, largest}
        return {(model, ratio, batch) for model, ratio in self.cases for batch in batches(LARGEST[model][ratio])}

    def merge(self, part, rows):
        """Adds rows to those of earlier calls, and replaces those of the same case."""
        key = lambda row: (row["model"], row["mask_ratio"], row["batch"])
        new = {key(row) for row in rows}
        kept = [row for row in self.results.get(part, []) if key(row) not in new]
        self.results[part] = sorted(kept + rows, key=key)
        return ", ".join(f"{row['model']} {row['mask_ratio']}: {row['samples_per_second'] or 0:.0f}/s" for row in rows)

    def steps(self):
        rows = []
        # Ratio 0.75 is compared with 0 at a batch for which neither recomputes anything.
        equal = {(model, ratio, min(1024, LARGEST[model][0])) for model, ratio in self.cases if ratio in (0, 0.75)}
        for model, ratio, batch in sorted(self.points() | equal):
            options = [f"--model={model}", f"--mask-ratio={ratio}", f"--batch={batch}", "--group=op",
                       "--profile-steps=10", "--profile-seconds=10"]
            name = f"steps-{model}-{ratio}-{batch}"
            try:
                found, recompute = self.profile("steps", 300, *options, name=name), False
            except Failed as error:
                if "out of memory" not in str(error):
                    raise
                found, recompute = self.profile("steps", 300, *options, "--recompute=blocks", name=name), True
            keys = ["model", "mask_ratio", "batch", "samples_per_second", "step_seconds", "training_step_seconds",
                    "first_step_seconds", "model_flop_utilisation", "peak_memory_bytes"]
            rows.append({key: found[key] for key in keys} | {"recompute": recompute})
        return self.merge("steps", rows)

    def begin_peers(self):
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        gigabytes = int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) / 1000
        # The parts that run at the same time need little memory.
        self.peers = Peers(self, sorted(self.points()), gigabytes - 15)

    def peer(self):
        line = self.merge("peer", [self.peers.time(case, 200) for case in sorted(self.points())])
        if any(row["samples_per_second"] is None for row in self.results["peer"]):
            raise Failed(f"a case has no number (see peer.log): {line}")
        return line


# The largest batch, rounded down a little, that fits in 80 GB without recomputing anything, by mask ratio.
LARGEST = {"b16": {0: 1088, 0.5: 1984, 0.75: 3328}, "l16": {0: 384, 0.5: 768, 0.75: 1344}}
CHECKS = ["device", "golden", "reproducible", "parity", "sanitizer"]
PARTS = CHECKS + ["ceilings", "benches", "steps", "peer"]


def tensors(path):
    """The bytes of a safetensors file's tensors, without its header, which contains times."""
    raw = path.read_bytes()
    return raw[8 + struct.unpack("<Q", raw[:8])[0]:]


def table(results):
    device = results.get("device", {})
    lines = [f"# {device.get('name', 'no device')}, {results['date']}, commit {results['commit'][:12]}", ""]
    lines += ["| part | result |", "|---|---|"] + [f"| {name} | {line} |" for name, line in results["parts"].items()]
    if "steps" in results:
        peers = {(row["model"], row["mask_ratio"], row["batch"]): row for row in results.get("peer", [])}
        lines += ["", "`*`: blocks are recomputed in the backward pass.", "",
                  "| model | mask ratio | batch | samples/s | of the product ceiling | PyTorch samples/s | factor |",
                  "|---|---|---|---|---|---|---|"]
        star = lambda row: "*" if row["recompute"] else ""
        for row in results["steps"]:
            peer = peers.get((row["model"], row["mask_ratio"], row["batch"]), {})
            theirs = peer.get("samples_per_second")
            factor = f"{theirs:.0f}{star(peer)} | {row['samples_per_second'] / theirs:.2f}" if theirs else "- | -"
            ours = f"{row['samples_per_second']:.0f}{star(row)}"
            lines.append(f"| {row['model']} | {row['mask_ratio']} | {row['batch']} | {ours} "
                         f"| {100 * row['model_flop_utilisation']:.0f} % | {factor} |")
        speed = {(row["model"], row["mask_ratio"], row["batch"]): row["samples_per_second"] for row in results["steps"]
                 if not row["recompute"]}
        lines.append("")
        for (model, ratio, batch), unmasked in speed.items():
            if ratio == 0 and (model, 0.75, batch) in speed:
                factor = speed[model, 0.75, batch] / unmasked
                lines.append(f"{model}, batch {batch}: mask ratio 0.75 is {factor:.2f} times as fast as 0.")
    if "benches" in results:
        lines += ["", "| op | us | GB/s | TFLOP/s | bound by | of limit |", "|---|---|---|---|---|---|"]
        lines += [f"| {row['name']} | {1e6 * row['seconds']:.1f} | {row['gigabytes_per_second']:.0f} "
                  f"| {row['teraflops']:.1f} | {row['bound']} | {100 * row['of_limit']:.0f} % |"
                  for row in results["benches"]["rows"]]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cuda", choices=["cuda", "emulator"])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", choices=list(LARGEST), default=list(LARGEST), help="of steps and peer")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, arguments.quick, arguments.device, arguments.models)
    run.results |= {"date": str(datetime.date.today()), "commit": (HERE / "commit").read_text().strip()}
    run.results.setdefault("parts", {})
    lock = threading.Lock()

    def perform(part):
        start = time.monotonic()
        try:
            line = getattr(run, part)()
        except (Failed, OSError, ValueError, KeyError) as error:
            line = f"FAILED: {error}"
        with lock:
            run.results["parts"][part] = line
            print(f"{part:<13} {time.monotonic() - start:6.1f} s  {line}", flush=True)
            (out / "gpu.json").write_text(json.dumps(run.results, indent=1) + "\n")
            (out / "gpu.md").write_text(table(run.results))
        return line.startswith("FAILED")

    parts = [part for part in PARTS if part in arguments.only]
    failed = 0
    try:
        if "peer" in parts:
            run.begin_peers()
        # Checks run in parallel, measurements alone.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            failed += sum(pool.map(perform, [part for part in parts if part in CHECKS]))
        if "peer" in parts:
            run.peers.wait(400)
        failed += sum([perform(part) for part in parts if part not in CHECKS])
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the peer needs nvidia-smi: {error}")
    finally:
        if run.peers:
            run.peers.end()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
