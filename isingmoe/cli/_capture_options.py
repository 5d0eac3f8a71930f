"""Options of `isingmoe capture`: texts, how they are cut, how the model is run or asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from isingmoe.endpoints import EndpointCapture

__all__ = ["CutOptions", "EndpointOptions", "ModelOptions", "RecordOptions", "TextOptions"]


def _panel(name: str) -> dict[str, Any]:
    return {"rich_help_panel": name}


_TEXTS = _panel("Texts")
_MODEL = _panel("The model, where it runs here")
_RECORD = _panel("What is recorded")
_SERVER = _panel("A server instead of a model")


@dataclass(frozen=True)
class TextOptions:
    """Where the texts come from."""

    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help="A text, a .jsonl file with a text on each line, or a folder of them.",
            **_TEXTS,
        ),
    ] = None
    dataset: Annotated[
        str | None, typer.Option(help="A dataset of the Hugging Face hub.", **_TEXTS)
    ] = None
    field: Annotated[
        str, typer.Option(help="Of JSON lines and datasets: which is the text.", **_TEXTS)
    ] = "text"
    split: Annotated[str, typer.Option(help="Of a dataset.", **_TEXTS)] = "train"
    dataset_config: Annotated[str | None, typer.Option(help="Of a dataset.", **_TEXTS)] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows of a dataset, from the first one.", **_TEXTS)
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(help="Of the files (default: UTF-8, or as they are marked).", **_TEXTS),
    ] = None

    def sources(self, files: list[Path]) -> list[Any]:
        """All sources, further files included.

        Raises
        ------
        ValueError
            If there is none.
        """
        from isingmoe.texts import TextDataset, TextFile

        paths = [*(self.text or []), *files]
        sources: list[Any] = [TextFile(path, self.field, self.encoding) for path in paths]
        if self.dataset is not None:
            sources.append(
                TextDataset(
                    self.dataset, self.field, self.split, self.dataset_config, limit=self.limit
                )
            )
        if not sources:
            raise ValueError("text: expected texts, got none; name some with --text or --dataset")
        return sources


@dataclass(frozen=True)
class CutOptions:
    """How texts become sequences, and how they go on."""

    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest sequence (default: 512, or what the model can read).", **_TEXTS
        ),
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens from one sequence of a text to the next (default: no overlap).",
            **_TEXTS,
        ),
    ] = None
    pack: Annotated[
        bool, typer.Option("--pack", help="Join the texts before they are cut.", **_TEXTS)
    ] = False
    generate: Annotated[
        int,
        typer.Option(
            min=0, help="Tokens that the model writes after each sequence, at most.", **_TEXTS
        ),
    ] = 0
    temperature: Annotated[
        float, typer.Option(min=0, help="Of what it writes; 0: the most probable.", **_TEXTS)
    ] = 1.0
    seed: Annotated[int, typer.Option(min=0, help="Of what it writes.", **_TEXTS)] = 0

    def settings(self) -> dict[str, Any]:
        """Arguments of `capture` and `capture_endpoint`."""
        return vars(self)


@dataclass(frozen=True)
class RecordOptions:
    """What is recorded beside the experts."""

    gate_weights: Annotated[
        bool, typer.Option("--gate-weights/--no-gate-weights", help="Weights.", **_RECORD)
    ] = True
    router_logits: Annotated[
        bool, typer.Option("--router-logits", help="Logits of all experts: large.", **_RECORD)
    ] = False
    hidden_states: Annotated[
        bool,
        typer.Option(
            "--hidden-states", help="What the routers receive, into traces.hidden.", **_RECORD
        ),
    ] = False

    def names(self) -> list[str]:
        """What `capture` calls them."""
        wanted = {
            "gate_weight": self.gate_weights,
            "router_logit": self.router_logits,
            "hidden_state": self.hidden_states,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded and run."""

    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model.", **_MODEL)
    ] = None
    dtype: Annotated[
        Literal["auto", "float64", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights (auto: as they are stored).", **_MODEL),
    ] = "auto"
    device: Annotated[
        str | None, typer.Option(help="Such as cuda:1 (default: a GPU if there is one).", **_MODEL)
    ] = None
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread over all devices and the memory.", **_MODEL)
    ] = None
    experts_implementation: Annotated[
        str | None, typer.Option(help="eager, batched_mm or grouped_mm.", **_MODEL)
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with the model.", **_MODEL),
    ] = False
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that are read at once, at most.", **_MODEL)
    ] = 4096

    def settings(self) -> dict[str, Any]:
        """Arguments of `capture`."""
        return vars(self)


@dataclass(frozen=True)
class EndpointOptions:
    """A server that runs the model, and what it does not say."""

    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Such as http://localhost:8000/v1.", **_SERVER)
    ] = None
    served_model: Annotated[
        str | None, typer.Option("--model", help="What the server calls the model.", **_SERVER)
    ] = None
    server: Annotated[
        Literal["vllm", "sglang"] | None, typer.Option(help="If it does not say.", **_SERVER)
    ] = None
    num_experts: Annotated[
        int | None, typer.Option(min=1, help="Number of routed experts, E.", **_SERVER)
    ] = None
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts per token, k.", **_SERVER)] = (
        None
    )
    num_layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers of the model, with experts or without.", **_SERVER),
    ] = None
    layers: Annotated[
        str | None, typer.Option(help="Layers with experts: 0-23, or 1,3,5.", **_SERVER)
    ] = None
    ranked: Annotated[
        bool,
        typer.Option("--ranked", help="Experts come in the order of their weights.", **_SERVER),
    ] = False
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests under way at once.", **_SERVER)
    ] = 8
    attempts: Annotated[
        int, typer.Option(min=1, help="How often a request is sent in all.", **_SERVER)
    ] = 6
    timeout: Annotated[float, typer.Option(help="Seconds for an answer.", **_SERVER)] = 600.0
    api_key: Annotated[
        str | None, typer.Option(help="Also read from ISINGMOE_API_KEY.", **_SERVER)
    ] = None

    def capture(self, cut: CutOptions) -> EndpointCapture:
        """What is asked of the server."""
        from isingmoe.cli.import_ import typed_layers
        from isingmoe.endpoint_answers import Facts
        from isingmoe.endpoint_requests import Patience
        from isingmoe.endpoint_servers import Endpoint, Sampling
        from isingmoe.endpoints import EndpointCapture

        patience = Patience(self.attempts, timeout=self.timeout)
        return EndpointCapture(
            Endpoint(self.endpoint or "", self.server, self.api_key, self.concurrency, patience),
            self.served_model,
            Sampling(cut.generate, cut.temperature, cut.seed),
            Facts(
                self.num_experts,
                self.top_k,
                typed_layers(self.layers),
                self.ranked,
                self.num_layers,
            ),
            max_tokens=cut.max_tokens,
            stride=cut.stride,
            pack=cut.pack,
        )
