"""What part of a router's input each frequency of the position encoding reads."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from isingmoe import _provenance
from isingmoe._text import about
from isingmoe.capturing.describing import model_name
from isingmoe.capturing.preparing import loaded, with_tokenizer
from isingmoe.capturing.sites import Site, around, find_sites
from isingmoe.subspaces import CONVENTIONS

__all__ = ["rope_subspaces"]

# Before the attention, and before the router: where several norms surround a layer, the one
# whose output the router takes is named first.
_BEFORE_ATTENTION = ("input_layernorm", "operator_norm")
_BEFORE_ROUTER = (
    "pre_feedforward_layernorm",
    "pre_mlp_layernorm",
    "pre_ff_layernorm",
    "ffn_norm",
    "post_attention_layernorm",
)
_MOST_BANDS, _MOST_DIRECTIONS = 16, 16

Array = NDArray[np.float64]


class _Layer(NamedTuple):
    """What the queries and keys of a layer read, by the frequency that turns them.

    Attributes
    ----------
    rows : ndarray (frequency, row, feature)
    inverse : ndarray (frequency,)
        Angle of a step of one token.
    """

    rows: Array
    inverse: Array


def rope_subspaces(
    model: nn.Module | str | os.PathLike[str],
    *,
    layer: Sequence[int] | None = None,
    n_bands: int | None = None,
    n_directions: int | None = None,
    **loading: Any,
) -> xr.Dataset:
    """Subspaces of the router's input that each band of rotary frequencies reads.

    Parameters
    ----------
    model : Module, str or path
        A model of transformers, or its name on the Hugging Face hub, or its folder.
    layer : sequence of int, optional
        The model's own numbers; all layers with experts by default.
    n_bands : int, optional
        Bands that neighbouring frequencies are put together to; by default one for each
        frequency, but no more than 16.
    n_directions : int, optional
        Dimension of each subspace; by default 16, but no more than a quarter of the features,
        nor than a band has.
    **loading
        Of a model that is named, as `capture` takes it: `revision`, `dtype`, `device`,
        `device_map`, `trust_remote_code`.

    Returns
    -------
    Dataset
        `basis` (layer, band, direction, feature), float32 and orthonormal; `wavelength`
        (band), in tokens, of several frequencies their geometric mean; `explained` (layer,
        band), the share of the squared weights of the band that lies in its subspace.

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If the model cannot be reached.
    TypeError, ValueError
        If an argument is out of range, or the model has no experts, no rotary position
        encoding, or queries and keys that cannot be told apart.

    Notes
    -----
    Rotary encoding turns pair j of each query and key by an angle in proportion to the
    position, once in `wavelength` tokens. The pair is linear in the input of the attention,
    which is the residual stream x, normed to n(x) and multiplied with a gain g: W diag(g) n(x).
    The input of the router is the same stream behind the attention, with its own gain g':
    u = diag(g') n(x). What pair j reads of x lies in u as the rows of W diag(g / g'), those of both
    members of the pair, of queries and keys and all heads, times the gains of the norms that
    queries and keys may have of their own; what such a norm divides a token's query by leaves
    the span of the rows as it is. Of a band with more rows than directions, the leading ones of
    their singular value decomposition are kept.

    It is the attention of the same layer, which has already read the stream when the router
    does. A probe that finds position there says where in the input it stands, not that
    the encoding put it there.

    References
    ----------
    J. Su et al., arXiv:2104.09864 (2021).
    """
    for name, value in (("n_bands", n_bands), ("n_directions", n_directions)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{name}: expected an integer or None, got {value!r}")
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    prepared, _ = with_tokenizer(model, None, False, loading)
    found = loaded(prepared, loading)
    sites = _chosen(found, layer)
    modules, name = dict(found.named_modules()), model_name(found)
    layers = [_layer(modules, site, f"{name}: layer {site.layer}") for site in sites]
    inverse = layers[0].inverse
    for site, one in zip(sites, layers, strict=True):
        if one.inverse.shape != inverse.shape or not np.allclose(one.inverse, inverse):
            raise ValueError(
                f"{name}: layer {site.layer}: expected the frequencies of layer "
                f"{sites[0].layer}, got others; choose layers that agree, with layer="
            )
    n_frequencies, _, n_features = layers[0].rows.shape
    n_groups = min(n_bands or _MOST_BANDS, n_frequencies)
    groups = np.array_split(np.argsort(-inverse), n_groups)
    spans = [[_span(one.rows[group]) for group in groups] for one in layers]
    rank = min(len(values) for row in spans for values, _ in row)
    n_kept = min(n_directions or min(_MOST_DIRECTIONS, max(n_features // 4, 1)), rank)
    basis = np.array([[rows[:n_kept] for _, rows in row] for row in spans], np.float32)
    share = [[(v[:n_kept] ** 2).sum() / (v**2).sum() for v, _ in row] for row in spans]
    wavelength = [2 * np.pi / np.exp(np.log(inverse[group]).mean()) for group in groups]
    arguments = {"n_bands": n_groups, "n_directions": n_kept}
    return xr.Dataset(
        {
            "basis": (
                ("layer", "band", "direction", "feature"),
                basis,
                about("orthonormal directions of the router's input"),
            ),
            "explained": (
                ("layer", "band"),
                np.array(share),
                about("share of the band's squared weights in its subspace"),
            ),
        },
        coords={
            "layer": ("layer", [site.layer for site in sites], about("the model's layer number")),
            "wavelength": ("band", wavelength, about("wavelength of the band", "token")),
        },
        attrs={
            "conventions": CONVENTIONS,
            "model": name,
            "provenance": _provenance.record("rope_subspaces", {**arguments, "model": name}),
        },
    )


def _chosen(model: nn.Module, layer: Sequence[int] | None) -> list[Site]:
    """One site for each layer of the first stack."""
    sites = find_sites(model)
    if not sites:
        raise ValueError(
            f"{model_name(model)}: expected a model with routed experts, got a dense one"
        )
    known = {site.layer: site for site in reversed(sites) if site.stack == sites[0].stack}
    wanted = sorted(known) if layer is None else list(layer)
    unknown = [number for number in wanted if number not in known]
    if unknown or not wanted:
        raise ValueError(
            f"{model_name(model)}: layer: expected some of {', '.join(map(str, sorted(known)))}, "
            f"got {', '.join(map(str, unknown)) or 'none'}"
        )
    return [known[number] for number in wanted]


def _span(rows: Array) -> tuple[Array, Array]:
    """Singular values that are not nought and their directions, (direction, feature)."""
    flat = rows.reshape(-1, rows.shape[-1])
    _, values, directions = np.linalg.svd(flat, full_matrices=False)
    kept = values > values[0] * max(flat.shape) * np.finfo(np.float32).eps
    return values[kept], directions[kept]


def _layer(modules: dict[str, nn.Module], site: Site, where: str) -> _Layer:
    """The rows of the queries and keys of a layer, acting on the input of its router."""
    block, attention = _attention(modules, site, where)
    named = {name: norm for name, norm in block.named_children() if "norm" in name}
    norms = []
    for names in (_BEFORE_ATTENTION, _BEFORE_ROUTER):
        norm = next((named[name] for name in names if name in named), None)
        if norm is None and norms and len(named) == 1:
            # Attention and experts stand side by side, behind the same one.
            norm = norms[0]
        if norm is None:
            raise ValueError(
                f"{where}: expected a norm called {' or '.join(names)}, got "
                f"{', '.join(named) or 'none'}; what the router is given is not known"
            )
        norms.append(norm)
    rotary = _rotary(modules, site, attention)
    if rotary is None:
        raise ValueError(
            f"{where}: expected rotary position encoding (rotary_emb with inv_freq), got none; "
            "there is no wavelength to probe"
        )
    width = attention.q_proj.weight.shape[1]
    before, router = (_gain(norm, width) for norm in norms)
    ratio = np.divide(before, router, out=np.zeros_like(before), where=router != 0)
    inverse = rotary.inv_freq.detach().double().cpu().numpy()
    pairs = _pairs(attention, rotary, len(inverse), width, where)
    rows = []
    for name, count in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        weight = getattr(attention, name).weight
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError(
                f"{where}: {name}: expected a matrix of floats, got {weight.dtype} of "
                f"{tuple(weight.shape)}; load the model without quantisation"
            )
        n_heads = getattr(attention.config, count)
        if len(weight) != n_heads * attention.head_dim:
            raise ValueError(
                f"{where}: {name}: expected {n_heads} heads of {attention.head_dim}, got "
                f"{len(weight)} rows; there is more in it than queries or keys"
            )
        heads = weight.detach().double().cpu().numpy() * ratio
        heads = heads.reshape(n_heads, attention.head_dim, width)
        heads = heads * _gains_of_heads(attention, name, n_heads)[..., None]
        rows.append(heads[:, pairs].transpose(1, 0, 2, 3).reshape(len(pairs), -1, width))
    return _Layer(np.concatenate(rows, axis=1), inverse)


def _gains_of_heads(attention: Any, name: str, n_heads: int) -> Array:
    """What a norm of the queries or keys multiplies them with, (head, place)."""
    norm = getattr(attention, name.replace("proj", "norm"), None)
    places, all_places = attention.head_dim, n_heads * attention.head_dim
    weight = getattr(norm, "weight", None)
    if isinstance(norm, nn.Module) and isinstance(weight, Tensor):
        if weight.numel() == all_places:
            return _gain(norm, all_places).reshape(n_heads, places)
        if weight.numel() == places:
            return np.tile(_gain(norm, places), (n_heads, 1))
    return np.ones((n_heads, places))


def _attention(modules: dict[str, nn.Module], site: Site, where: str) -> tuple[Any, Any]:
    """The layer that a site is in, and its attention."""
    for label, block in around(modules, site.label):
        for child in block.children():
            if all(isinstance(getattr(child, n, None), nn.Module) for n in ("q_proj", "k_proj")):
                return block, child
        if label.rpartition(".")[2].isdecimal():
            break
    raise ValueError(
        f"{where}: expected attention with q_proj and k_proj, got none; queries and keys that "
        "share a matrix, or have a latent one before them, cannot be told apart; leave the layer "
        "out"
    )


def _rotary(modules: dict[str, nn.Module], site: Site, attention: Any) -> Any:
    """What turns queries and keys: of the attention, or the nearest that its owners have."""
    for owner in (attention, *(module for _, module in around(modules, site.label))):
        rotary = getattr(owner, "rotary_emb", None)
        if isinstance(getattr(rotary, "inv_freq", None), Tensor):
            return rotary
    return None


@torch.no_grad()
def _gain(norm: nn.Module, width: int) -> Array:
    """What a norm multiplies each feature with, whatever its weights mean; to one factor."""
    like = next(norm.parameters(), None)
    sign = torch.tensor([1.0, -1.0]).repeat(width // 2 + 1)[:width]
    if like is not None:
        sign = sign.to(like.device, like.dtype)
    # Half the difference: without the bias of the norm.
    gain = (norm(sign[None, None]) - norm(-sign[None, None])) / 2 * sign
    return gain.double().cpu().numpy().reshape(-1)


@torch.no_grad()
def _pairs(
    attention: Any, rotary: Any, n_frequencies: int, width: int, where: str
) -> NDArray[np.int64]:
    """Which two places of a head each frequency turns, (frequency, 2)."""
    _check_turned(attention, rotary, width, where)
    halves = np.arange(2 * n_frequencies).reshape(2, n_frequencies).T
    source = vars(sys.modules[type(attention).__module__])
    turn = source.get("rotate_half")
    if turn is None:
        if "_apply_rotary_emb" in source and type(attention).__name__ == "GptOssAttention":
            return halves
        raise ValueError(
            f"{where}: expected a rotation by rotate_half, got one that {type(attention).__name__} "
            "makes otherwise; which places it pairs is not known"
        )
    places = torch.arange(1.0, 2 * n_frequencies + 1)
    partner = turn(places[None])[0].abs().long().numpy() - 1
    for pairs in (halves, halves.T.reshape(-1, 2)):
        if (partner[pairs] == pairs[:, ::-1]).all():
            return pairs
    raise ValueError(f"{where}: expected pairs of halves or of neighbours, got others")


def _check_turned(attention: Any, rotary: Any, width: int, where: str) -> None:
    """Raise where the attention of a layer does not use the positions."""
    like = attention.q_proj.weight
    given = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0))
    given = given.to(like.device, like.dtype if like.is_floating_point() else torch.float32)
    known = inspect.signature(type(attention).forward).parameters
    if "position_embeddings" not in known:
        raise ValueError(
            f"{where}: expected attention that takes position_embeddings, got "
            f"{type(attention).__name__}; whether it turns its queries is not known"
        )
    outputs = []
    for stride in (1, 7):
        places = torch.arange(4, device=like.device)[None] * stride
        turned = rotary(given, places)
        outputs.append(
            attention(hidden_states=given, position_embeddings=turned, attention_mask=None)[0]
        )
    if torch.equal(*outputs):
        raise ValueError(
            f"{where}: expected attention that turns its queries and keys, got one that does not; "
            "leave the layer out"
        )
