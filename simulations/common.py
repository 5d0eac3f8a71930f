"""What the studies share: their options, and how results are written."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import isingmoe as im

__all__ = ["Study", "folder_of", "options", "parse"]


@dataclass(frozen=True)
class Study:
    """Where a study writes, whether at toy size, and which seed it starts from."""

    output: Path
    quick: bool
    seed: int = 0

    def save(self, name: str, dataset: xr.Dataset) -> xr.Dataset:
        """Write a Dataset as NetCDF-4, under its name only when it is whole."""
        path = self.output / name
        part = path.with_name(f".{name}")
        dataset.to_netcdf(part, engine="h5netcdf")
        part.replace(path)
        return dataset

    def draw(self, name: str, figure: Any) -> None:
        """Write a figure as PNG."""
        figure.savefig(self.output / name, dpi=120)

    def conclude(self, summary: dict[str, Any], name: str = "summary.json") -> None:
        """Write the numbers of the README, and print them."""
        text = json.dumps(summary, indent=2)
        (self.output / name).write_text(text + "\n", "utf-8")
        print(text)
        print(f"\nresults in {self.output}")

    def cached(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A Dataset of an earlier run of this study, or a new one."""
        path = self.output / name
        if path.exists():
            return xr.load_dataset(path, engine="h5netcdf")
        return self.save(name, compute())


def parse(description: str | None, file: str) -> Study:
    """Options of a study: where it writes, its size and its seed."""
    parser = options(description)
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    chosen = parser.parse_args()
    return Study(folder_of(chosen, file), chosen.quick, chosen.seed)


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that all studies have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="toy size, under a minute")
    parser.add_argument(
        "--output", type=Path, help="folder (default: results/, with --quick a temporary one)"
    )
    parser.add_argument(
        "--again", action="store_true", help="compute everything anew, keep no earlier results"
    )
    return parser


def folder_of(
    chosen: argparse.Namespace, file: str, name: str = "results", kept: Sequence[str] = ("",)
) -> Path:
    """Make the folder that a study writes to; --again removes what is kept in it, by default all.

    Parameters
    ----------
    chosen : Namespace
        Of `options`.
    file : str
        That of the study.
    name : str
        Of the folder beside it, unless another is chosen.
    kept : sequence of str
        Files and folders in it that another run would begin from.
    """
    folder, output = Path(file).resolve().parent, chosen.output
    if output is None:
        quick = tempfile.mkdtemp(prefix=f"{folder.name}-") if chosen.quick else None
        output = folder / name if quick is None else Path(quick)
    for path in [output / one for one in kept] if chosen.again else []:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    if chosen.quick:
        # Toy runs are too short on purpose.
        warnings.simplefilter("ignore", im.ShortRunWarning)
    return output
