"""The Switch layer of several releases of transformers, each installed into a folder of its own.

    python fits/switch_audit/versions.py 4.57.6 5.0.0 5.23.0

Needs the network, and writes `versions.json`. What a layer does is found by `layer_probe.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["probe_installed", "probe_releases"]

PROBE = Path(__file__).with_name("layer_probe.py")


def probe_installed(folder: Path | None = None) -> dict[str, Any]:
    """What the Switch layer does, of the transformers in a folder or of that which is imported.

    In a process of its own, which imports nothing else.
    """
    found = {} if folder is None else {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROBE)],
        capture_output=True,
        text=True,
        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"} | found,
    )
    if done.returncode:
        raise RuntimeError(f"{PROBE.name}: expected an answer, got {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def probe_releases(releases: Sequence[str]) -> list[dict[str, Any]]:
    """Install releases one after another, with what they need but torch, and probe them."""
    found = []
    for release in releases:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
            subprocess.run([*pip, "--target", folder, f"transformers=={release}"], check=True)
            answer = probe_installed(Path(folder))
        if answer["transformers"] != release:
            raise RuntimeError(f"expected transformers {release}, got {answer['transformers']}")
        found.append(answer)
        print(json.dumps(answer), file=sys.stderr)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="+", metavar="RELEASE", help="of transformers")
    parser.add_argument(
        "--output", type=Path, default=PROBE.parent / "results", help="folder (default: results/)"
    )
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    answers = json.dumps(probe_releases(chosen.releases), indent=2)
    (chosen.output / "versions.json").write_text(answers + "\n", "utf-8")
