"""Train a small OLMoE on State of the Union messages and capture its router traces.

    python study.py             the whole study, into results/
    python study.py --quick     the same path at toy size, into a temporary folder

Results go to files and a summary to standard output; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import baselines
import numpy as np
import xarray as xr
from figures import loss_figure, routing_figure
from files import describe, provenance, recorded_choices, replacing, write_dataset
from tokenizers import Tokenizer
from tracing import capture
from training import CONTEXT, FULL, QUICK, Settings, load, token_log_probability, train
from transformers import OlmoeForCausalLM

import isingmoe as im

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "simulations"))
from trained_models import corpus

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Text:
    """The tokenised corpus: whole training speeches, and windows of the held-out ones."""

    tokenizer: Tokenizer
    training: list[np.ndarray]
    held_out: corpus.Windows


def prepare_text(settings: Settings, rng: np.random.Generator) -> Text:
    """Split the speeches, train the tokenizer on the training part, and encode both parts."""
    training, held_out = corpus.split_speeches(rng, settings.n_years)
    tokenizer = corpus.train_tokenizer(training["text"], settings.vocab_size)
    return Text(
        tokenizer,
        corpus.encode(tokenizer, training["text"]),
        corpus.speech_windows(
            corpus.encode(tokenizer, held_out["text"]), held_out["fileid"], CONTEXT
        ),
    )


def train_and_save(
    settings: Settings, seed: int, text: Text, output: Path
) -> tuple[OlmoeForCausalLM, xr.Dataset]:
    """Train the model; write its weights, its tokenizer and its loss curve."""
    separator = text.tokenizer.token_to_id(corpus.SEPARATOR)
    windows = corpus.packed_windows(text.training, separator, CONTEXT)
    weights = output / "weights"
    began = time.perf_counter()
    model, curve = train(settings, windows, text.held_out.token_id, seed, weights)
    curve = curve.assign_attrs(
        training_seconds=round(time.perf_counter() - began),
        provenance=provenance(seed, settings, model),
    )
    model.save_pretrained(weights)
    with replacing(output / "tokenizer.json") as unfinished:
        text.tokenizer.save(str(unfinished), pretty=False)
    write_dataset(curve, output / "loss.nc")
    return model, curve


def baseline_log_probability(
    text: Text, vocab_size: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Score the held-out windows with a unigram and a Kneser-Ney bigram model.

    The bigram's discounts are tuned on a tenth of the training speeches with counts of the other
    nine tenths; then all training speeches are counted.

    Returns
    -------
    log_probability : dict of ndarray, shape (window, position - 1)
        Keys ``unigram`` and ``bigram``; the first token of a window is given, not predicted.
    discounts : ndarray, shape (3,)
    """
    shuffled = [text.training[index] for index in rng.permutation(len(text.training))]
    n_tuning = max(len(shuffled) // 10, 1)
    discounts = baselines.tune_discounts(
        baselines.bigram_counts(shuffled[n_tuning:], vocab_size), shuffled[:n_tuning]
    )
    bigram = baselines.kneser_ney(baselines.bigram_counts(text.training, vocab_size), discounts)
    unigram = baselines.unigram_probability(text.training, vocab_size)
    token_id = text.held_out.token_id
    log_probability = {
        "unigram": np.log(unigram[token_id[:, 1:]]),
        "bigram": np.log(bigram[token_id[:, :-1], token_id[:, 1:]]),
    }
    return log_probability, discounts


def summarise_text_models(scores: Mapping[str, np.ndarray], speech: np.ndarray) -> dict:
    """Compare the models' log-probabilities of the same held-out tokens.

    Parameters
    ----------
    scores : mapping of str to ndarray, shape (window, position - 1)
    speech : ndarray of str, shape (window,)
    """
    gain = (scores["model"] - scores["bigram"]).mean(axis=1)
    speech_gains = [gain[speech == name].mean() for name in np.unique(speech)]
    return {
        "perplexity": {
            name: float(np.exp(-score.mean(dtype=np.float64))) for name, score in scores.items()
        },
        "held_out_tokens": scores["model"].size,
        "held_out_speeches": len(speech_gains),
        "speeches_where_model_beats_bigram": int(np.sum(np.array(speech_gains) > 0)),
    }


def summarise_routing(overlap: xr.Dataset, load: np.ndarray) -> list[dict]:
    """Give one record per layer: the overlap check, and how evenly the experts are used.

    Parameters
    ----------
    overlap : Dataset, dims (layer,)
    load : ndarray, shape (layer, expert)
        In units of the uniform load 1/E; an expert below 0.01 is counted as unused.
    """
    names = ["overlap", "overlap_shuffled", "overlap_spread", "overlap_z"]
    table = overlap[names].to_dataframe().reset_index()
    table["unused_experts"] = (load < 0.01).sum(axis=1)
    table["largest_load"] = load.max(axis=1)
    return table.to_dict(orient="records")


def summary_text(summary: Mapping) -> str:
    """Set the summary as two short tables."""
    lines = [f"{'model':<10}{'held-out perplexity':>20}"]
    lines += [f"{name:<10}{value:>20.2f}" for name, value in summary["perplexity"].items()]
    lines += ["", "layer  overlap  shuffled  deviation      z  unused experts  largest load"]
    lines += [
        f"{row['layer']:>5}{row['overlap']:>9.4f}{row['overlap_shuffled']:>10.4f}"
        f"{row['overlap_spread']:>11.5f}{row['overlap_z']:>7.1f}"
        f"{row['unused_experts']:>16}{row['largest_load']:>14.2f}"
        for row in summary["layers"]
    ]
    return "\n".join(lines)


def run(settings: Settings, seed: int, output: Path, curve: xr.Dataset | None = None) -> dict:
    """Carry out the study and write its results.

    Parameters
    ----------
    settings : Settings
    seed : int
        Every random choice follows from it.
    output : Path
        Folder for the results; the weights go to its subfolder ``weights``.
    curve : Dataset, optional
        Loss curve of a model already trained with these settings and this seed, whose weights
        are in `output`; without it a model is trained.

    Returns
    -------
    dict
        What is written to ``summary.json``.
    """
    split_rng, tuning_rng = np.random.default_rng(seed).spawn(2)
    text = prepare_text(settings, split_rng)
    if curve is None:
        model, curve = train_and_save(settings, seed, text, output)
    else:
        model = load(output / "weights")
    origin = provenance(seed, settings, model)

    scores, discounts = baseline_log_probability(text, settings.vocab_size, tuning_rng)
    scores["model"] = token_log_probability(model, text.held_out.token_id)

    captured = capture(model, corpus.spread(text.held_out, settings.n_sequences))
    traces = describe(captured, settings, origin)
    im.save_traces(traces, output / "traces.nc", overwrite=True)
    overlap = im.neighbour_overlap(traces, seed=seed).isel(distance=0, drop=True)
    load_per_expert = settings.n_experts * im.load_balance(traces)["load"].values

    summary = {
        **summarise_text_models(scores, text.held_out.speech),
        "bigram_discounts": discounts.round(4).tolist(),
        "training_speeches": len(text.training),
        "training_corpus_tokens": sum(map(len, text.training)),
        "tokens_trained_on": settings.steps * settings.batch_size * CONTEXT,
        "training_seconds": int(curve.attrs["training_seconds"]),
        "parameters": model.num_parameters(),
        "traced_sequences": traces.sizes["sequence"],
        "traced_speeches": len(np.unique(traces["speech"])),
        "layers": summarise_routing(overlap, load_per_expert),
        "load_over_all_layers": load_per_expert.mean(axis=0).round(3).tolist(),
        "provenance": json.loads(origin),
    }
    with replacing(output / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n")
    figures = {
        "loss.png": loss_figure(curve, summary["perplexity"]),
        "routing.png": routing_figure(overlap, load_per_expert),
    }
    for name, figure in figures.items():
        with replacing(output / name) as unfinished:
            figure.savefig(unfinished, dpi=120)
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the study, print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    parser.add_argument("--quick", action="store_true", help="toy size, under a minute")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the default number")
    parser.add_argument(
        "--output", type=Path, help="folder (default: results/, with --quick a temporary one)"
    )
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="train nothing: take the weights, settings and seed of the run in the output folder",
    )
    options = parser.parse_args(arguments)

    output = options.output
    if output is None:
        output = Path(tempfile.mkdtemp(prefix="example_model-")) if options.quick else RESULTS
    output.mkdir(parents=True, exist_ok=True)
    if options.reuse:
        if not (output / "loss.nc").exists() or not (output / "weights").exists():
            parser.error(f"--reuse expected loss.nc and weights/ in {output}; train there first")
        curve = xr.load_dataset(output / "loss.nc", engine="h5netcdf")
        settings, seed = recorded_choices(curve)
    else:
        curve, seed = None, options.seed
        settings = QUICK if options.quick else FULL
        if options.steps is not None:
            settings = replace(settings, steps=options.steps)

    print(summary_text(run(settings, seed, output, curve)))
    print(f"\nresults in {output}")


if __name__ == "__main__":
    main()
