#!/usr/bin/env python3
"""Compares flipk's training step (forward, backward, AdamW) with OpenCLIP's on this machine's CPU, at the same model
sizes, batch and mask ratio. The two alternate, and so does which one goes first, because a machine's speed can change
within seconds. In bf16, flipk runs with --precision bf16 and OpenCLIP under autocast.

    tools/peers/run.py [--seconds 20] [--turns 2] [--cases b16 small] [--precisions f32 bf16] [--out FILE]

Installs open_clip_torch into a virtual environment (target/peers, or PEERS_ENV). Writes FILE, by default
benches/results/cpu-openclip.json, with the processor and the date. Prints a table with the samples per second of the
median step; `best` is the factor between the fastest steps. flipk's time includes data loading; OpenCLIP gets one batch
that is already in memory.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from machine import processor

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = json.loads((ROOT / "tools/gpu/models.json").read_text())
CASES = {name: {"batch": batch} | MODELS[name] for name, batch in [("b16", 16), ("small", 64)]}
# OpenCLIP's own architecture, by its name in both programs.
CASES["ViT-B-16"] = {"batch": 16, "model": "ViT-B-16"}


def openclip(python, case):
    script = ROOT / "tools/peers/openclip.py"
    return json.loads(subprocess.run([python, script, json.dumps(case)], check=True, capture_output=True).stdout)


def flipk(folder, case):
    sizes = [f"--{key.replace('_', '-')}={value}" for key, value in case.items() if key not in ("ratio", "seconds")]
    command = [ROOT / "target/release/flipk", "train", f"--out={folder}", f"--mask-ratio={case['ratio']}",
               "--data=embedded:noto", "--eval-data=embedded:noto", "--log-every=1", "--save-every=0", "--device=cpu",
               *sizes]
    lines, process = [], subprocess.Popen([*command, "--steps=100000"], stderr=subprocess.DEVNULL, cwd=ROOT)
    metrics = pathlib.Path(folder) / "metrics.jsonl"
    try:
        while len(lines) < 4 or sum(case["batch"] / line["samples_per_second"] for line in lines[1:]) < case["seconds"]:
            try:
                process.wait(0.2)
                raise RuntimeError("flipk train ended early")
            except subprocess.TimeoutExpired:
                pass
            if metrics.exists():
                whole = metrics.read_text().rpartition("\n")[0].splitlines()
                lines = [json.loads(line) for line in whole]
    finally:
        process.kill()
        process.wait()
    # The first step is not counted, as with OpenCLIP.
    speeds = [line["samples_per_second"] for line in lines[1:]]
    return {"samples_per_second": speeds, "gflops": [line["gflops"] for line in lines[1:]]}


def joined(turns):
    """The steps of all turns as one result; values that are not lists are the same in each turn."""
    speeds = list(itertools.chain.from_iterable(turn["samples_per_second"] for turn in turns))
    result = {key: value for key, value in turns[0].items() if not isinstance(value, list)}
    result |= {"samples_per_second": statistics.median(speeds), "best": max(speeds), "steps": len(speeds)}
    if "gflops" in turns[0]:
        result["gflops"] = statistics.median(itertools.chain.from_iterable(turn["gflops"] for turn in turns))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="minimum time per measurement, over all turns")
    parser.add_argument("--turns", type=int, default=2, help="how many times each of the two runs")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results/cpu-openclip.json",
                        help="where results go")
    arguments = parser.parse_args()
    if not arguments.out.parent.is_dir():
        parser.error(f"--out: there is no folder {arguments.out.parent}")
    subprocess.run(["cargo", "build", "--release"], check=True, cwd=ROOT)
    environment = pathlib.Path(os.environ.get("PEERS_ENV", ROOT / "target/peers"))
    python = environment / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "open_clip_torch==3.2.0"], check=True)
    rows = []
    print("| model | precision | mask ratio | flipk samples/s | GFLOP/s | OpenCLIP samples/s | factor | best |\n"
          "|---|---|---|---|---|---|---|---|")
    for name, precision in itertools.product(arguments.cases, arguments.precisions):
        for ratio in [0, 0.5, 0.75]:
            seconds = arguments.seconds / arguments.turns
            case = CASES[name] | {"ratio": ratio, "seconds": seconds, "precision": precision}
            turns = {"flipk": [], "openclip": []}
            for turn in range(arguments.turns):
                for program in sorted(turns, reverse=turn % 2 == 1):
                    with tempfile.TemporaryDirectory() as folder:
                        ran = flipk(f"{folder}/run", case) if program == "flipk" else openclip(python, case)
                    turns[program].append(ran)
            ours, theirs = joined(turns["flipk"]), joined(turns["openclip"])
            factor, best = (ours[key] / theirs[key] for key in ("samples_per_second", "best"))
            rows.append({"case": name, "precision": precision, "ratio": ratio, "flipk": ours, "openclip": theirs,
                         "factor": factor, "best": best})
            print(f"| {name} | {precision} | {ratio} | {ours['samples_per_second']:.2f} | {ours['gflops']:.0f} "
                  f"| {theirs['samples_per_second']:.2f} | {factor:.2f} | {best:.2f} |", flush=True)
    result = {"date": datetime.date.today().isoformat(), "processor": processor(), "rows": rows}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
