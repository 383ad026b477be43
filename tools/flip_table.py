#!/usr/bin/env python3
"""Measures accuracy on the embedded data at each mask ratio, after the same time and after the same samples.

    tools/flip_table.py [--seconds 120] [--seeds 3] [--ratios 0 0.5 0.75] [--speeds 1200 2200 3200]

Every run is `flipk train` with its defaults except for mask ratio, length and seed. First, a short run at each ratio
measures its speed, which determines how many samples it gets in `--seconds`. The runs with the same samples get as many
as the first ratio. Writes benches/results/flip-table.json and prints the README's table. Leave the machine idle during
the first minute, while the speeds are measured; after that, results depend on the number of samples alone.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH = 256


def train(folder, *options):
    subprocess.run([ROOT / "target/release/flipk", "train", f"--out={folder}", "--save-every=0", *options],
                   check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((pathlib.Path(folder) / "summary.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0, 0.5, 0.75])
    parser.add_argument("--speeds", type=float, nargs="+",
                        help="samples per second at each ratio, instead of measuring them")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release"], check=True, cwd=ROOT)
    (ROOT / "benches/results").mkdir(exist_ok=True)
    results = {"seconds": arguments.seconds, "runs": []}
    with tempfile.TemporaryDirectory() as scratch:
        speed = dict(zip(arguments.ratios, arguments.speeds or []))
        for ratio in arguments.ratios if not speed else []:
            options = [f"--mask-ratio={ratio}", f"--samples={60 * BATCH}", "--eval-data=embedded:noto"]
            speed[ratio] = train(f"{scratch}/speed-{ratio}", *options)["samples_per_second"]
            print(f"ratio {ratio}: {speed[ratio]:.0f} samples/s", flush=True)
        common = int(speed[arguments.ratios[0]] * arguments.seconds)
        for seed in range(arguments.seeds):
            for ratio in arguments.ratios:
                lengths = {"same time": int(speed[ratio] * arguments.seconds), "same samples": common}
                for kind, samples in lengths.items():
                    if kind == "same samples" and ratio == arguments.ratios[0]:
                        # This is the run before: the first ratio defines the number of samples.
                        results["runs"].append(results["runs"][-1] | {"kind": kind})
                        continue
                    name = f"{scratch}/{kind.replace(' ', '-')}-{ratio}-{seed}"
                    found = train(name, f"--mask-ratio={ratio}", f"--samples={samples}", f"--seed={seed}")
                    row = {"kind": kind, "ratio": ratio, "seed": seed, "samples": found["samples"],
                           "train_seconds": found["samples"] / speed[ratio],
                           "top1": found["zero_shot_top1"], "top5": found["zero_shot_top5"]}
                    results["runs"].append(row)
                    print(row, flush=True)
    (ROOT / "benches/results/flip-table.json").write_text(json.dumps(results, indent=1) + "\n")
    print("| compared after | mask ratio | samples | seconds | top-1 | top-5 |\n|---|---|---|---|---|---|")
    for kind in ["same time", "same samples"]:
        for ratio in arguments.ratios:
            rows = [run for run in results["runs"] if run["kind"] == kind and run["ratio"] == ratio]
            mean = lambda key: statistics.mean(run[key] for run in rows)
            share = lambda key: (f"{100 * mean(key):.1f} ± "
                                 f"{100 * statistics.stdev([run[key] for run in rows]):.1f} %"
                                 if len(rows) > 1 else f"{100 * mean(key):.1f} %")
            print(f"| {kind} | {ratio} | {mean('samples'):,.0f} | {mean('train_seconds'):.0f} "
                  f"| {share('top1')} | {share('top5')} |")


if __name__ == "__main__":
    main()
