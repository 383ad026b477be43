"""What machine a comparison ran on, for both run.py."""

import subprocess


def processor():
    lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith(("Vulnerab", "NUMA")))
    return {key.strip(): value.strip() for key, _, value in pairs}
