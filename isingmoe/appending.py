"""Traces that grow while they are captured, in memory that does not."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr

from isingmoe import _provenance
from isingmoe._conversion import write_netcdf, write_zarr
from isingmoe._growing import (
    UNFINISHED,
    GrowingStore,
    build_store,
    check_zarr,
    discard_unfinished,
    remove_leftovers,
)
from isingmoe._storage import check_output, check_suffix, replace_whole
from isingmoe._unfinished import (
    OPTIONAL,
    belonging,
    blank,
    check_attributes,
    check_belonging,
    check_free,
    partial_store,
    rows_of_a_chunk,
)
from isingmoe.recorded import Recording, assemble

__all__ = ["TraceWriter", "check_free", "open_as_used", "partial_store"]

_WRITERS = {".nc": write_netcdf, ".zarr": write_zarr}
# A slow model fills no chunk for a long time.
_COMMIT_SECONDS = 30.0


def open_as_used(path: Path) -> xr.Dataset:
    """Traces that were finished, read from the file as they are used."""
    if path.suffix == ".zarr":
        return xr.open_zarr(path, chunks=None, mask_and_scale=False, consolidated=False)
    return xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False)


class TraceWriter:
    """A trace that is written as its sequences come; `create` or `resume` makes one.

    It is a Zarr store beside the output, which any command can read, until `finish` makes the
    output of it. What was committed outlives the process, however that ends. Leaving the
    context of a writer after an error commits what is whole, and adds to the error where it is.

    Attributes
    ----------
    path : Path
        The output.
    """

    def __init__(self, path: Path, store: GrowingStore) -> None:
        self.path = path
        self._store = store
        self._committed_at = time.monotonic()
        self._open, self._is_written = True, False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        layers: Sequence[int],
        num_experts: int | Sequence[int],
        top_k: int | Sequence[int],
        n_positions: int,
        ranked: bool,
        model: str,
        variables: Collection[str] = (),
        logit_dtype: str = "float16",
        attributes: Mapping[str, str] | None = None,
        identity: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Begin a trace.

        Parameters
        ----------
        path : path
            The output, `traces.nc` or `traces.zarr`.
        layers : sequence of int
            The model's own layer numbers.
        num_experts, top_k : int, or sequence of int (layer,)
            E, and experts per token.
        n_positions : int
            Tokens of a sequence at most; the output is as long as its longest sequence.
        ranked : bool
            Whether the order of the ranks is that of the weights.
        model : str
        variables : collection of str
            Those of `gate_weight`, `router_logit`, `token_id` and `start_position` that the
            recordings hold.
        logit_dtype : {"float16", "float32"}
        attributes : mapping of str, optional
            Others of the trace, such as `router` and `provenance`.
        identity : mapping, optional
            What decides the content, as far as JSON can hold it: the model, hashes of the
            texts, settings. `resume` compares it.
        overwrite : bool
            Whether the output, or an unfinished capture of it, may be replaced.

        Returns
        -------
        TraceWriter

        Raises
        ------
        OSError
            If the output or an unfinished capture of it exists, or cannot be written.
        ValueError
            If the output has another ending, or an argument is impossible.
        ImportError
            If zarr is missing or too old.
        """
        path = _checked(path)
        folder = partial_store(path)
        if folder.exists():
            if not overwrite:
                raise FileExistsError(
                    f"{folder}: an unfinished capture is kept there; go on with it by the same "
                    "settings, say --overwrite, or name another output"
                )
            discard_unfinished(check_output(folder, overwrite))
        _tidy(path)
        check_output(path, overwrite)
        attributes = {
            "provenance": _provenance.record("TraceWriter", {"variables": sorted(variables)}),
            **(attributes or {}),
        }
        check_attributes(attributes)
        held = blank(len(layers), num_experts, top_k, n_positions, variables, logit_dtype)
        one = assemble(
            [held],
            layers=layers,
            num_experts=num_experts,
            top_k=top_k,
            ranked=ranked,
            model=model,
            attributes=attributes,
            where=str(path),
        )
        begun = one.isel(sequence=slice(0)).assign_attrs(
            {UNFINISHED: belonging(path.name, identity)}
        )
        build_store(folder, begun, rows_of_a_chunk(one))
        return cls(path, GrowingStore(folder))

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], *, identity: Mapping[str, Any] | None = None
    ) -> Self:
        """Go on with a trace that was begun, from its sequence `n_sequences` on.

        Parameters
        ----------
        path : path
            The output, as for `create`.
        identity : mapping, optional
            What `create` was given.

        Returns
        -------
        TraceWriter

        Raises
        ------
        FileNotFoundError
            If there is no unfinished capture of this output.
        OSError
            If another process is writing it, or it cannot be written.
        ValueError
            If it is damaged, or another capture: with the first entry that differs.
        ImportError
            If zarr is missing or too old.
        """
        path = _checked(path)
        folder = partial_store(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no unfinished capture is there; begin one")
        store = GrowingStore(folder)
        try:
            check_belonging(store, belonging(path.name, identity))
        except BaseException:
            store.close()
            raise
        _tidy(path)
        return cls(path, store)

    @classmethod
    def go_on(
        cls,
        path: str | os.PathLike[str],
        *,
        identity: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self | None:
        """Go on with a trace if one was begun.

        Parameters
        ----------
        path, identity
            As for `resume`.
        overwrite : bool
            Whether one that is damaged, or is another capture, may be replaced.

        Returns
        -------
        TraceWriter or None
            None where one is to be begun.

        Raises as `resume` does.
        """
        if not partial_store(path).exists():
            return None
        try:
            return cls.resume(path, identity=identity)
        except ValueError:
            if overwrite:
                return None
            raise

    @property
    def n_sequences(self) -> int:
        """Sequences that are committed."""
        return self._store.n_sequences

    @property
    def n_appended(self) -> int:
        """Sequences that are committed, or held in memory until the next commit."""
        return self._store.n_appended

    def append(self, recordings: Sequence[Recording]) -> None:
        """Take sequences, and commit wherever a chunk is full.

        Parameters
        ----------
        recordings : sequence of Recording
            A batch.

        Raises
        ------
        ValueError
            If they do not fit the trace, or would not be valid in it; none is taken then.
        OSError
            If they cannot be written; `n_appended` counts those that were taken.
        """
        self._check_open()
        if not recordings:
            return
        self._is_written = False
        self._store.append(self._assembled(recordings))
        if time.monotonic() - self._committed_at > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make every sequence that was appended part of the store, all at once.

        Raises
        ------
        OSError
            If they cannot be written; what was committed before stays.
        """
        self._check_open()
        self._store.commit()
        self._committed_at = time.monotonic()

    def write_output(self) -> None:
        """Make the output of what was appended, and keep the store; raises as `finish` does."""
        self.commit()
        if not self.n_sequences:
            raise ValueError(f"{self.path}: expected sequences, got none; no trace is written")
        folder, write = self._store.folder, _WRITERS[self.path.suffix]
        replace_whole(self.path, lambda part: write(folder, part, UNFINISHED))
        self._is_written = True

    def finish(self) -> Path:
        """Make the output of what was appended unless it is made, and remove the store.

        Returns
        -------
        Path
            The output.

        Raises
        ------
        ValueError
            If there are no sequences.
        OSError
            If it cannot be written; the store stays then.
        """
        self._check_open()
        if not self._is_written:
            self.write_output()
        self._open = False
        try:
            self._store.discard()
        finally:
            self._store.close()
        return self.path

    def close(self) -> None:
        """Leave the store as it was last committed."""
        self._open = False
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        try:
            self.commit()
        except OSError:
            # Where there is an error already, it is the one to tell.
            if error is None:
                raise
        finally:
            self.close()
        if error is None:
            return
        if not self.n_sequences:
            self._store.discard()
            return
        kept = (
            f"{self.n_sequences} sequences are kept in {self._store.folder}, and the same capture "
            "goes on from there"
        )
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{str(error) or 'interrupted'}; {kept}") from None
        error.add_note(kept)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError(f"{self.path}: expected a trace that is open, got a closed one")

    def _assembled(self, recordings: Sequence[Recording]) -> xr.Dataset:
        """A valid trace of the recordings, with the variables of the store."""
        store, where = self._store, f"{self.path}: after {self.n_appended} sequences"
        told = {**store.attributes, **store.fixed}
        batch = assemble(
            recordings,
            layers=told["layer"].tolist(),
            num_experts=told["num_experts"],
            top_k=told["top_k"],
            ranked=bool(told["ranked"]),
            model=told["model"],
            attributes={},
            where=where,
        )
        longest, limit = batch.sizes["position"], store.sizes["position"]
        if longest > limit:
            raise ValueError(
                f"{where}: expected at most n_positions = {limit} tokens in a sequence, got "
                f"{longest}; cut it, or begin with more positions"
            )
        if "start_position" in store.growing and "start_position" not in batch:
            batch["start_position"] = ("sequence", np.zeros(len(recordings), np.int32))
        for name in OPTIONAL:
            expected, got = (
                str(held[name].dtype if held is batch else held[name]) if name in held else "none"
                for held in (store.growing, batch)
            )
            if expected != got:
                raise ValueError(
                    f"{where}: {name}: expected {expected}, as the trace was begun, got {got}"
                )
        return batch


def _checked(path: str | os.PathLike[str]) -> Path:
    path = check_suffix(Path(path))
    check_zarr(path)
    return path


def _tidy(path: Path) -> None:
    for name in (path, partial_store(path)):
        remove_leftovers(name)
