"""The layers that are special to a causal video network: convolution that sees the past only, norm of single frames,
and the steps between resolutions.

Shapes: B clips, C channels, T H W frames/height/width. Copies of a clip's first frame stand in front of it, zeros
never do.

They have two ways to the same result. Where gradients are recorded, whole clips go through PyTorch's own layers.
Without, clips come frame by frame, channels last in memory, and the working memory is that of a few frames.
"""

from itertools import product
from math import ceil

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Memory = dict["CausalConv3d", list[Tensor]]  # the frames (B, C, H, W) behind the last output that the next will see
Span = tuple[int, int]  # the first place of a stretch and the first one after it

BAND = 2**22  # bytes of a frame whose statistics are taken at a time: less than a processor's cache


def recorded(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients will be asked of what is computed from these."""
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


class CausalConv3d(nn.Conv3d):
    """A convolution whose output frame i sees input frames up to i·stride only.

    Without `memory` a clip is complete and goes through one 3-D convolution. With one, the frames of a clip arrive in
    any portions, and an output frame is the sum over the kernel's time slices, each a 2-D convolution of one frame:
    nothing is copied, frames that stand for several (the first one) are convolved once, and the 2-D kernels are as fast
    as the 3-D ones (many times faster for few channels in float32, where PyTorch leaves oneDNN for an unfolding path).

    Args:
        pads: zeros before and after every row and column.

    Attributes:
        limit: bytes; input frames larger than this are convolved area by area. It bounds the working memory of a call,
            not the result.
    """

    limit = 2**29

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int, int] = 3,
        stride: int | tuple[int, int, int] = 1,
        pads: tuple[int, int] = (1, 1),
    ):
        symmetric = pads[0] if pads[0] == pads[1] else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding=(0, symmetric, symmetric))
        self.pads = pads

    def forward(self, x_BCTHW: Tensor, memory: Memory | None = None) -> Tensor:
        """The outputs that the frames so far allow, (B, O, T', H', W'); with memory T' may be 0 where time is
        strided."""
        kernel_t, stride_t = self.kernel_size[0], self.stride[0]
        if memory is None:
            if x_BCTHW.shape[2] == 1:
                return self._frame([x_BCTHW.squeeze(2)] * kernel_t).unsqueeze(2)
            past = x_BCTHW[:, :, :1].expand(-1, -1, kernel_t - 1, -1, -1)
            x_BCTHW = torch.cat([past, x_BCTHW], 2)
            return super().forward(x_BCTHW if self.padding[1] else F.pad(x_BCTHW, self.pads * 2))
        frames = tuple(frame.contiguous(memory_format=torch.channels_last) for frame in x_BCTHW.unbind(2))
        window = [*memory.get(self, frames[:1] * (kernel_t - 1)), *frames]
        outputs = []
        while len(window) >= kernel_t:
            outputs.append(self._frame(window[:kernel_t]))
            window = window[stride_t:]
        memory[self] = window
        if not outputs:
            return x_BCTHW.new_empty(len(x_BCTHW), self.out_channels, 0, *self._size(frames[0]))
        if len(outputs) == 1:
            return outputs[0].unsqueeze(2)
        return torch.stack([frame.movedim(1, -1) for frame in outputs], 1).movedim(-1, 1)

    def _frame(self, window: list[Tensor]) -> Tensor:
        """The output frame of as many input frames (B, C, H, W) as the kernel is long."""
        taps: list[tuple[Tensor, Tensor]] = []
        for frame, kernel in zip(window, self.weight.unbind(2), strict=True):
            if taps and taps[-1][0] is frame:  # copies of the first frame meet the sum of their slices
                kernel = taps.pop()[1] + kernel
            taps.append((frame, kernel))
        height, width = self._size(window[0])
        parts = ceil(window[0].nbytes / self.limit)
        if parts == 1:
            return self._area(taps, (0, height), (0, width))
        output = None
        for rows in _cuts(height, parts):
            for columns in _cuts(width, ceil(parts / height)):
                area = self._area(taps, rows, columns)
                if output is None:
                    shape = (*area.shape[:2], height, width)
                    output = torch.empty(shape, dtype=area.dtype, device=area.device, memory_format=torch.channels_last)
                output[:, :, slice(*rows), slice(*columns)] = area
        return output

    def _size(self, frame: Tensor) -> list[int]:
        """Height and width of the output for a frame (B, C, H, W)."""
        axes = zip(frame.shape[2:], self.kernel_size[1:], self.stride[1:], strict=True)
        return [(size + sum(self.pads) - kernel) // stride + 1 for size, kernel, stride in axes]

    def _area(self, taps: list[tuple[Tensor, Tensor]], rows: Span, columns: Span) -> Tensor:
        """Some rows and columns of the output: the sum over (input frame, slice of the kernel)."""
        height, width = taps[0][0].shape[2:]
        (_, *kernel), (_, *stride) = self.kernel_size, self.stride
        seen_y, top, bottom = _seen(rows, kernel[0], stride[0], self.pads[0], height)
        seen_x, left, right = _seen(columns, kernel[1], stride[1], self.pads[0], width)
        output, bias = None, self.bias
        for frame, weight in taps:
            frame = frame[:, :, seen_y, seen_x]
            if top == bottom and left == right:
                part = F.conv2d(frame, weight, bias, stride, (top, left))
            else:
                part = F.conv2d(F.pad(frame, (left, right, top, bottom)), weight, bias, stride)
            output = part if output is None else output.add_(part)
            bias = None  # once is enough
        return output


def _seen(outputs: Span, kernel: int, stride: int, pad: int, size: int) -> tuple[slice, int, int]:
    """What outputs see of an axis: the places, and how many zeros stand before and after them."""
    start, stop = outputs[0] * stride - pad, (outputs[1] - 1) * stride + kernel - pad
    return slice(max(start, 0), min(stop, size)), max(-start, 0), max(stop - size, 0)


def _cuts(size: int, parts: int) -> list[Span]:
    step = ceil(size / min(parts, size))
    return [(start, min(start + step, size)) for start in range(0, size, step)]


class FrameNorm(nn.GroupNorm):
    """GroupNorm with statistics of single frames, which is what lets a clip be cut anywhere in time."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        B, _, T, _, _ = x_BCTHW.shape
        if T == 1:  # squeezed, a frame keeps the strides by which kernels know its memory format
            return self._frames(x_BCTHW.squeeze(2)).unsqueeze(2)
        frames = self._frames(rearrange(x_BCTHW, "B C T H W -> (B T) C H W"))
        return rearrange(frames, "(B T) C H W -> B C T H W", B=B)

    def _frames(self, x_BCHW: Tensor) -> Tensor:
        if recorded(x_BCHW, self.weight) or not x_BCHW.is_cpu:
            return super().forward(x_BCHW)
        frames = [self._frame(frame) for frame in x_BCHW.split(1)]
        return torch.cat(frames) if len(frames) > 1 else frames[0]

    def _frame(self, x_BCHW: Tensor) -> Tensor:
        """One frame on a processor. PyTorch's own kernel for channels last adds up number after number and loses digits
        on large frames: at 640x360 the result was off by 1e-3."""
        kind = torch.promote_types(x_BCHW.dtype, torch.float32)
        size, count = self.num_channels // self.num_groups, x_BCHW[0, 0].numel()
        bands = x_BCHW.split(max(1, BAND * x_BCHW.shape[2] // x_BCHW.nbytes), 2)
        mean = sum(band.sum((0, 2, 3), dtype=kind) for band in bands) / count
        centered = (F.batch_norm(band, mean, torch.ones_like(mean), eps=0) for band in bands)
        variance = sum(band.square_().sum((0, 2, 3), dtype=kind) for band in centered) / count
        # From the channels' statistics to those of their groups.
        mean, variance = mean.view(-1, size), variance.view(-1, size)
        center = mean.mean(1, keepdim=True)
        variance = (variance + (mean - center).square()).mean(1, keepdim=True)
        center, variance = (value.expand(-1, size).flatten() for value in (center, variance))
        return F.batch_norm(x_BCHW, center, variance, self.weight.to(kind), self.bias.to(kind), eps=self.eps)


class Downsampler(nn.Module):
    """Halves height and width, and time if `temporal`: T frames become (T - 1) // 2 + 1."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        kernel, stride = ((3, 3, 3), (2, 2, 2)) if temporal else ((1, 3, 3), (1, 2, 2))
        self.conv = CausalConv3d(channels, channels, kernel, stride, pads=(0, 1))  # published: right and bottom only

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        return self.conv(x_BCTHW, memory)


class Upsampler(nn.Module):
    """Doubles height and width, and time if `temporal`: T frames become 2T - 1 (2T in later chunks of a clip)."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.frames = 2 if temporal else 1
        self.upscale_conv = CausalConv3d(channels, channels * 4 * self.frames, kernel=1, pads=(0, 0))
        self.conv = CausalConv3d(channels, channels)
        with torch.no_grad():  # starts as nearest-neighbour copies
            self.upscale_conv.weight.copy_(torch.eye(channels).repeat(4 * self.frames, 1)[..., None, None, None])
            self.upscale_conv.bias.zero_()

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        if memory is not None:
            return self.conv(self._upscale(x_BCTHW, first=self.conv not in memory), memory)
        x_BCTHW = rearrange(
            self.upscale_conv(x_BCTHW), "B (y x z C) T H W -> B C (T z) (H y) (W x)", y=2, x=2, z=self.frames
        )
        if self.frames == 2:  # the first frame stands for itself alone
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], x_BCTHW[:, :, 2:]], 2)
        return self.conv(x_BCTHW, None)

    def _upscale(self, x_BCTHW: Tensor, first: bool) -> Tensor:
        """The same for one frame, place by place: the tensor with 4 or 8 times the channels never exists."""
        B, C, _, H, W = x_BCTHW.shape
        result_BTHWC = x_BCTHW.new_empty(B, 1 if first else self.frames, 2 * H, 2 * W, C)
        kernels, biases = (p.chunk(4 * self.frames) for p in (self.upscale_conv.weight, self.upscale_conv.bias))
        places = product((0, 1), (0, 1), range(self.frames))
        for (y, x, z), kernel, bias in zip(places, kernels, biases, strict=True):
            if z < result_BTHWC.shape[1]:
                part_BCHW = F.conv2d(x_BCTHW.squeeze(2), kernel.squeeze(2), bias)
                result_BTHWC[:, z, y::2, x::2] = part_BCHW.movedim(1, -1)
        return result_BTHWC.movedim(-1, 1)
