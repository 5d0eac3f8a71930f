"""Position probes: how much of a token's position can be read off what its router sees."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._numbers import check_integer
from isingmoe._schema import alike
from isingmoe._seeds import seed_sequence
from isingmoe._storage import Saved, read_content
from isingmoe._text import about
from isingmoe.errors import ShortTraceWarning
from isingmoe.linear_probes import MAX_ITERATIONS, SPLITS
from isingmoe.probe_cells import CELLS, CONTROLS, Cell, Question
from isingmoe.probe_inputs import Inputs
from isingmoe.probe_tables import table
from isingmoe.probe_tokens import Target, Tokens, chosen_tokens, targets_of, well_held
from isingmoe.subspaces import basis_of, checked_subspaces
from isingmoe.traces import Track, trace_name

__all__ = ["DIMS", "Probe", "open_probe", "probe"]

CONVENTIONS = "isingmoe-probe-1"
# In the order that variables have them.
DIMS = ("layer", "input", "target", "split", "control", "band")
_VARIABLES = ("layer", "input", "target", "split", "control", "accuracy", "p_value")


@dataclass(frozen=True)
class Probe(Saved):
    """How well position can be told from what routers see, beside what it would be by chance.

    Attributes
    ----------
    data : Dataset
        `accuracy`, `accuracy_error`, `accuracy_low` and `accuracy_high` (layer, input, target,
        split): share of held-out tokens whose class is told, its standard error and 95 %
        interval over sequences; `majority`, the same of the commonest class of the training
        tokens. `control_accuracy`, `control_low`, `control_high` (layer, input, target, split,
        control): mean of probes of labels that say nothing of position, and where one more
        lies 95 % of the time; `p_value` (layer, input, target, split), the chance of an
        accuracy as large if the position is not told, by the shifted labels. `n_classes`,
        `n_tokens`, `n_sequences` (layer, target). With subspaces, `band_accuracy`,
        `band_accuracy_error` (layer, target, split, band), the accuracy from one band of
        the position encoding alone, and `random_accuracy`, `random_low`, `random_high`
        (layer, target, split), that from random subspaces of the same dimension;
        `wavelength` (band), in tokens.
    """

    data: xr.Dataset

    def __str__(self) -> str:
        return table(self.data)


def probe(
    traces: xr.Dataset,
    *,
    hidden: str | os.PathLike[str] | None = None,
    inputs: Sequence[str] | None = None,
    targets: Sequence[str] = ("parity", "block"),
    block_length: int | Sequence[int] = 128,
    splits: Sequence[str] | None = None,
    n_folds: int = 3,
    n_shuffles: int = 10,
    max_tokens: int = 20_000,
    subspaces: xr.Dataset | None = None,
    seed: int = 0,
    track: Track | None = None,
) -> Probe:
    """Tell where tokens stand from what their routers see, by logistic regression.

    Parameters
    ----------
    traces : Dataset
        Positions count from `start_position`, where the traces have it.
    hidden : path, optional
        The folder of the hidden states; by default `traces.hidden` beside the file that the
        traces were read from, as `capture` leaves it.
    inputs : sequence of {"hidden_state", "router_logit", "expert_index"}, optional
        What is read of a token: what its router receives, the router's logits, or which
        experts it was sent to (0 or 1 for each). By default all that there are.
    targets : sequence of {"parity", "block"}
        What is told: whether the absolute position is even or odd, or which block of
        positions it is in.
    block_length : int or sequence of int
        Positions of a block; several for several targets.
    splits : sequence of {"token", "sequence"}, optional
        What is held out: tokens, as in the paper, or whole sequences, so that no token of
        a sequence is on both sides. By default both, where there are as many sequences as
        folds.
    n_folds : int
        Of the stratified cross-validation.
    n_shuffles : int
        Repetitions of each control; 0 for none.
    max_tokens : int
        Sequences are drawn at random until they hold so many. Where 30 hold more, each gives
        an equal part.
    subspaces : Dataset, optional
        As `rope_subspaces` makes it: hidden states are also probed inside each of them.
    seed : int
        Of the folds, the controls and the tokens that are drawn.
    track : callable, optional
        Wraps the iteration over what is probed, for a progress bar.

    Returns
    -------
    Probe

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    FileNotFoundError
        If hidden states are asked for and not there.
    TypeError, ValueError
        If an argument is out of range, an input is not there, does not go with the traces or
        is not finite, or all tokens are of one class.
    ImportError
        If scikit-learn is not installed.

    Notes
    -----
    Features are scaled to unit variance on the training tokens, and a multinomial logistic
    regression with a ridge of C = 1 is fitted to them. Accuracies are of tokens that were not
    fitted, their errors from the spread of the sequences: tokens of one sequence are not
    independent. Classes that fewer tokens, or fewer sequences where these are held out, have
    than there are folds are left out with a warning.

    Tokens of one sequence resemble each other, and neighbours the more so. Where tokens are
    held out, a probe can therefore tell a block by knowing others of the same sequence and
    block, though nothing depends on position. Two controls are fitted in the same way.
    *Shuffled* labels, permuted among all tokens (or, where sequences are held out, inside each
    sequence), have neither position nor runs, and are what a probe makes of nothing.
    *Shifted* labels are moved along each sequence in a circle, by whole blocks (parities by
    nought or one token): they have the same runs in the same sequences, but no common
    position. If no feature depends on position, the labels themselves are one such shift, so
    that their accuracy lies in the interval of the shifted ones whatever the correlation of
    the tokens. Intervals of controls are of one more draw, by Student's t of the draws, as is
    the p-value. Its spread is taken as no less than that of coin tosses for the tokens in which
    the probe differs from the commonest class, and it is no smaller than one over the number of
    shifts that there are.

    References
    ----------
    D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025): 91.7 % for blocks of 128, parity
    at chance. G. Alain and Y. Bengio, arXiv:1610.01644 (2016), of linear probes. J. Hewitt
    and P. Liang, EMNLP 2019, of control tasks. J. Su et al., arXiv:2104.09864 (2021), of RoPE.

    Examples
    --------
    >>> import isingmoe as im
    >>> found = im.probe(im.example_traces().sel(layer=[2]), n_shuffles=4, max_tokens=4000)
    >>> found.data["accuracy"].dims
    ('layer', 'input', 'target', 'split')
    """
    traces = alike(traces)
    check_integer("n_folds", n_folds, 2)
    check_integer("n_shuffles", n_shuffles, 0)
    check_integer("max_tokens", max_tokens, 1)
    if n_shuffles == 1:
        raise ValueError("n_shuffles: expected 0, or at least 2 for an interval, got 1")
    asked = targets_of(targets, block_length)
    read = Inputs(traces, hidden, inputs)
    if subspaces is not None:
        checked_subspaces(subspaces)
        if "hidden_state" not in read.names:
            raise ValueError(
                f"{trace_name(traces)}: subspaces: expected hidden states to project, got none; "
                "capture with --hidden-states, or name their folder with --hidden"
            )
    rng = np.random.default_rng(seed_sequence(seed).spawn(1)[0])
    tokens = chosen_tokens(traces, max_tokens, rng)
    known_splits = _splits(trace_name(traces), tokens, splits, n_folds)
    questions = [Question(target, known_splits, n_folds, n_shuffles, seed) for target in asked]
    tasks = [(place, each) for place in range(traces.sizes["layer"]) for each in questions]
    order = range(len(tasks))
    cells: list[Cell] = []
    lost: dict[str, set[int]] = {question.target.name: set() for question in questions}
    with threadpool_limits(1, user_api="blas"):
        for number in order if track is None else track(order):
            place, question = tasks[number]
            kept, rare = _well_held(read, place, question, tokens)
            lost[question.target.name] |= rare
            cells.append(_cell(read, place, question, kept, subspaces))
    for text in (*_left_out(lost, known_splits, n_folds), *_unconverged(cells)):
        warnings.warn(f"{trace_name(traces)}: {text}", ShortTraceWarning, stacklevel=2)
    arguments = {
        "inputs": list(read.names),
        "targets": [target.name for target in asked],
        "splits": list(known_splits),
        "n_folds": n_folds,
        "n_shuffles": n_shuffles,
        "max_tokens": max_tokens,
        "hidden": None if read.folder is None else read.folder.name,
    }
    described = {"traces": _provenance.describe(traces)}
    if subspaces is not None:
        described["subspaces"] = _provenance.describe(subspaces)
    data = xr.Dataset(
        _variables(cells, len(asked)),
        coords=_coordinates(traces, asked, arguments, subspaces),
        attrs={
            "conventions": CONVENTIONS,
            "model": traces.attrs["model"],
            "n_folds": n_folds,
            "n_shuffles": n_shuffles,
            "provenance": _provenance.record("probe", arguments, inputs=described, seed=seed),
        },
    )
    return Probe(data)


def open_probe(path: str | os.PathLike[str]) -> Probe:
    """Read a probe that `Probe.save` wrote.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read or holds something else.
    """
    data = read_content(
        path,
        conventions=CONVENTIONS,
        variables=_VARIABLES,
        attributes=("model", "n_folds", "n_shuffles"),
        remedy="make one with `isingmoe probe`",
    )
    return Probe(data)


def _splits(
    name: str, tokens: Tokens, wanted: Sequence[str] | None, n_folds: int
) -> tuple[str, ...]:
    """The splits that are asked for, or possible."""
    n_sequences = len(np.unique(tokens.sequence))
    if wanted is None:
        if n_sequences >= n_folds:
            return SPLITS
        warnings.warn(
            f"{name}: {n_sequences} sequences are fewer than {n_folds} folds, and only tokens are "
            "held out: what is told may be the sequence, not the position",
            ShortTraceWarning,
            stacklevel=3,
        )
        return SPLITS[:1]
    if not wanted or len({*wanted}) < len(wanted) or not {*wanted} <= {*SPLITS}:
        listed = ", ".join(map(str, wanted)) or "none"
        raise ValueError(f"splits: expected different ones of {', '.join(SPLITS)}, got {listed}")
    if "sequence" in wanted and n_sequences < n_folds:
        raise ValueError(
            f"{name}: splits: expected at least {n_folds} sequences, one for each fold, got "
            f"{n_sequences}; choose fewer folds, or the split by token"
        )
    return tuple(split for split in SPLITS if split in wanted)


def _cell(
    read: Inputs, place: int, question: Question, tokens: Tokens, subspaces: xr.Dataset | None
) -> Cell:
    """One target in one layer by its place."""
    features = {name: read.features(name, place, tokens) for name in read.names}
    basis = None
    if subspaces is not None:
        basis = basis_of(subspaces, read.layer(place), features["hidden_state"].shape[1])
    return question.answered(features, tokens, basis)


def _well_held(
    read: Inputs, place: int, question: Question, tokens: Tokens
) -> tuple[Tokens, set[int]]:
    """The tokens of a layer whose class there are enough of, and the other classes."""
    target, n_folds = question.target, question.n_folds
    tokens = tokens.among(read.served(place, tokens))
    by_sequence = "sequence" in question.splits
    labels = target.labels(tokens.position)
    enough = well_held(labels, tokens.sequence, n_folds, by_sequence)
    n_left = len(np.unique(labels[enough]))
    if n_left < 2:
        kind = "blocks" if target.block_length else "parities"
        remedy = "choose a shorter --block-length" if target.block_length else "give longer texts"
        raise ValueError(
            f"{read.source}: layer {read.layer(place)}: {target.name}: expected two {kind} that "
            f"at least {n_folds} {_unit(by_sequence)} hold, got {n_left}; {remedy}"
        )
    return tokens.among(enough), set(labels[~enough].tolist())


def _unit(by_sequence: bool) -> str:
    return "sequences" if by_sequence else "tokens"


def _left_out(lost: dict[str, set[int]], splits: tuple[str, ...], n_folds: int) -> Iterable[str]:
    """What there was too little of, for each target."""
    for name, rare in lost.items():
        if rare:
            listed = ", ".join(map(str, sorted(rare)[:6])) + (" .." if len(rare) > 6 else "")
            unit = _unit("sequence" in splits)
            yield f"{name}: {listed} left out, held by fewer than {n_folds} {unit}"


def _unconverged(cells: list[Cell]) -> Iterable[str]:
    n_unconverged = sum(cell.n_unconverged for cell in cells)
    if n_unconverged:
        yield (
            f"{n_unconverged} of {sum(cell.n_fits for cell in cells)} regressions stopped after "
            f"{MAX_ITERATIONS} steps, before their gradient vanished; more tokens (--max-tokens) "
            "make it easier"
        )


def _coordinates(
    traces: xr.Dataset,
    asked: list[Target],
    arguments: dict[str, Any],
    subspaces: xr.Dataset | None,
) -> dict[str, Any]:
    lengths = [target.block_length for target in asked]
    coords = {
        "layer": traces["layer"],
        "input": arguments["inputs"],
        "target": arguments["targets"],
        "split": arguments["splits"],
        "control": list(CONTROLS),
        "block_length": ("target", lengths, about("positions of a block; 0 for parity", "token")),
    }
    if subspaces is not None:
        wavelength = subspaces["wavelength"].values
        coords["wavelength"] = ("band", wavelength, about("wavelength of the band", "token"))
    return coords


def _variables(cells: list[Cell], n_targets: int) -> dict[str, Any]:
    """Variables (layer, ..) of the cells of each layer and target."""
    declared = {name: CELLS[name] for name in CELLS if name in cells[0].values}
    variables = {}
    for name, (dims, text, units) in declared.items():
        values = np.array([cell.values[name] for cell in cells])
        values = values.reshape(-1, n_targets, *values.shape[1:])
        named = ("layer", "target", *dims)
        order = tuple(dim for dim in DIMS if dim in named)
        axes = [named.index(dim) for dim in order]
        variables[name] = (order, values.transpose(axes), about(text, units))
    return variables
