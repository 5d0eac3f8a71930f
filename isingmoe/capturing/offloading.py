"""Records on their way from the device to the host, while the device goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Offload", "offload"]


class Offload:
    """Tensors that are being copied to the host.

    Parameters
    ----------
    tensors : sequence of Tensor
        On the host, to be read when the events have passed.
    events : sequence of Event
        One for each device that is copied from.
    """

    def __init__(self, tensors: Sequence[Tensor], events: Sequence[Any]) -> None:
        self._tensors, self._events = tensors, events

    def wait(self) -> list[Tensor]:
        """The tensors on the host, as soon as they are there."""
        for event in self._events:
            event.synchronize()
        return list(self._tensors)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def offload(tensors: Sequence[Tensor]) -> Offload:
    """Begin to copy tensors to the host.

    From a CUDA device they go into page-locked memory, on a stream of their own that waits for
    what was launched so far: neither the host nor the next forward pass waits for them. From
    any other device, and on the host, they are copied at once.

    Parameters
    ----------
    tensors : sequence of Tensor
        On any devices.

    Returns
    -------
    Offload
    """
    copies: list[Tensor] = []
    devices: dict[torch.device, torch.cuda.Stream] = {}
    for tensor in tensors:
        if tensor.device.type != "cuda":
            copies.append(tensor.cpu())
            continue
        device = tensor.device
        if device not in devices:
            devices[device] = _streams.setdefault(device, torch.cuda.Stream(device))
            devices[device].wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(devices[device]):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copy.copy_(tensor, non_blocking=True)
        # Its memory is not given to others before the copy is done.
        tensor.record_stream(devices[device])
        copies.append(copy)
    return Offload(copies, [stream.record_event() for stream in devices.values()])
