"""Parts of the audit of Switch: the probe of a release, the recipe, and dropping by chance."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import naive_switch as naive
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "fits" / "switch_audit"


@pytest.fixture(scope="module")
def study():
    """Modules of the study, whose names other studies have too."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(FOLDER), str(ROOT / "simulations")]
    try:
        import arms
        import limits
        import versions
        from trained_models.sizes import QUICK
        from trained_models.store import Store

        yield SimpleNamespace(
            arms=arms, limits=limits, versions=versions, store=Store(Path(), QUICK)
        )
    finally:
        sys.path[:] = before
        of_folder = {path.stem for path in FOLDER.glob("*.py")}
        for name in of_folder & (set(sys.modules) - known):
            del sys.modules[name]


def test_installed_release_enforces_the_capacity(study):
    found = study.versions.probe_installed()
    assert found["transformers"] == transformers.__version__
    assert found["capacity_of"] == "each sequence"
    assert found["first_come"]
    assert found["router_logits"] == "raw logits"
    assert not any(name.endswith("_error") for name in found)


def test_capacity_is_that_of_the_equations(study):
    size = study.store.size
    for context in (32, 250, 256):
        for arm in study.arms.ARMS[1:]:
            expected = naive.capacity(context // 2, size.n_experts, arm.capacity_factor)
            assert arm.capacity(replace(size, context=context)) == expected
        assert study.arms.ARMS[0].capacity(replace(size, context=context)) == context // 2


def test_what_is_dropped_is_what_the_model_drops(study):
    size, arm = study.store.size, study.arms.ARMS[-1]
    torch.manual_seed(0)
    model = arm.build(size).eval()
    windows = np.random.default_rng(0).integers(1, size.vocab_size, (6, size.context))
    stacks = arm.traces(model, windows, record=("router_logit",))
    for traces in stacks.values():
        assert (traces["length"] == size.context // 2).all()
        found = study.limits.of_stack(traces)
        for layer in range(traces.sizes["layer"]):
            served = [
                [route.is_served for route in naive.routes(logits, arm.capacity(size))]
                for logits in traces["router_logit"].values[layer]
            ]
            at = found["dropped_at"].values[layer]
            np.testing.assert_allclose(at, 1 - np.mean(served, 0))
            assert float(found["dropped"][layer]) == pytest.approx(1 - np.mean(served))
            chosen = found["load_entropy"].sel(which="chosen").values[layer]
            load = np.bincount(traces["router_logit"].values[layer].argmax(-1).ravel(), minlength=4)
            load = load[load > 0] / load.sum()
            assert chosen == pytest.approx(-(load * np.log(load)).sum() / np.log(4))


def test_experts_that_drop_any_of_their_tokens_drop_as_many(study):
    rng = np.random.default_rng(0)
    best = rng.integers(0, 4, (2, 300, 12, 1))
    served = [
        [[r.is_served for r in naive.routes(np.eye(4)[text[:, 0]], 3)] for text in layer]
        for layer in best
    ]
    holes = ~np.array(served)[..., None]
    left = study.limits._dropped_at_random(best, holes, np.random.default_rng(1))
    assert ((left == best) | (left == -1)).all()
    for expert in range(4):
        np.testing.assert_array_equal(
            (left == expert).sum((2, 3)), ((best == expert) & ~holes).sum((2, 3))
        )
    # In order the first are never dropped and the last often; at random all alike.
    assert not holes[:, :, :3].any()
    assert np.ptp((left < 0).mean((0, 1, 3))) < 0.12


def test_dropping_by_chance_is_that_of_independent_tokens(study):
    size, arm = study.store.size, study.arms.ARMS[-1]
    rng = np.random.default_rng(0)
    drawn = rng.random((2000, size.context // 2, size.n_experts))
    dropped = [[not r.is_served for r in naive.routes(one, arm.capacity(size))] for one in drawn]
    expected = study.limits.independent(arm, study.store)
    np.testing.assert_allclose(np.mean(dropped, 0), expected, atol=0.045)


def test_releases_that_enforce_no_capacity_are_refused(study, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    study.arms.ARMS[0].build(study.store.size)
    with pytest.raises(RuntimeError, match=r"expected transformers 5\.18\.0 or newer"):
        study.arms.ARMS[1].build(study.store.size)
