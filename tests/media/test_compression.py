"""JPEG and video encoders as stages: they lose what they should, and never a frame or its place."""

import pytest
import torch

from seedvr2_lab.media.clips import camera_clip, load_picture
from seedvr2_lab.media.compression import VIDEO_CODECS, from_pixels, jpeg, to_pixels, video
from seedvr2_lab.metrics import psnr

CLIP = camera_clip(load_picture("coffee"), 6, (72, 90), torch.Generator().manual_seed(0)).transpose(0, 1)  # TCHW


def brightness_ramp(frames: int, size: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.full((3, *size), 0.1 + 0.8 * i / max(frames - 1, 1)) for i in range(frames)]


def test_pixels_are_the_nearest_levels_and_come_back():
    frame = torch.tensor([-1.0, 0.0, 0.5, 0.502, 1.0, 7.0]).expand(3, 1, -1)
    assert to_pixels(frame)[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]
    levels = torch.arange(256).float().expand(3, 1, -1) / 255
    assert torch.equal(from_pixels(to_pixels(levels)), levels)


@pytest.mark.parametrize("size", [(72, 90), (1, 1), (7, 33)])
def test_jpeg_of_higher_quality_is_nearer(size):
    frame = CLIP[0, :, : size[0], : size[1]]
    results = [jpeg(frame, quality) for quality in (5, 30, 60, 95)]
    assert all(result.shape == frame.shape for result in results)
    if size == (72, 90):
        scores = [psnr(result, frame) for result in results]
        assert scores == sorted(scores) and scores[-1] > scores[0] + 8


@pytest.mark.parametrize("codec", VIDEO_CODECS)
@pytest.mark.parametrize(("frames", "size"), [(1, (64, 64)), (2, (1, 1)), (3, (33, 17)), (60, (65, 70))])
def test_every_frame_comes_back_in_its_place(codec, frames, size):
    clip = brightness_ramp(frames, size)
    seen = list(video(clip, codec, VIDEO_CODECS[codec].quality(0.5)))
    assert all(frame.shape == (3, *size) for frame in seen)
    assert [float(frame.mean()) for frame in seen] == pytest.approx([float(frame.mean()) for frame in clip], abs=0.02)


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_the_scale_of_an_encoder_goes_from_mild_to_severe(codec):
    scores = []
    for strength in (0.0, 0.5, 1.0):
        seen = torch.stack(list(video(CLIP, codec, VIDEO_CODECS[codec].quality(strength))))
        assert torch.equal(seen * 255, (seen * 255).round())
        scores.append(psnr(seen.transpose(0, 1), CLIP.transpose(0, 1)))
    assert scores[0] > 33 and scores[1] < scores[0] - 2 and scores[2] < scores[1] - 1


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_frames_are_predicted_from_others(codec):
    """In a still scene the loss must not be drawn anew for every frame, as JPEG would from noise to noise."""
    noise = 0.1 * torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = (CLIP[0, :, :64, :64] + noise).clamp(0, 1)
    seen = torch.stack(list(video(noisy, codec, VIDEO_CODECS[codec].severe)))
    flicker, flicker_of_jpeg = (
        float((clip[1:] - clip[:-1]).abs().mean()) for clip in (seen, torch.stack([jpeg(frame, 20) for frame in noisy]))
    )
    assert flicker < flicker_of_jpeg / 2


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_frames_stream_through(codec):
    fed = 0

    def feed():
        nonlocal fed
        for frame in brightness_ramp(150, (64, 64)):
            fed += 1
            yield frame

    held = [fed - place for place, _ in enumerate(video(feed(), codec, VIDEO_CODECS[codec].mild), 1)]
    assert len(held) == 150 and max(held) < 80


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_colours_stay_where_they_are(codec):
    """A wave of colour at constant brightness comes back in phase, to a tenth of a pixel."""
    x = torch.arange(128) * (2 * torch.pi / 32)

    def wave(phase):
        red = 0.3 * torch.sin(x - phase)
        colours = torch.stack([red, -red * 0.2126 / 0.7152, torch.zeros_like(red)]) + 0.5
        return colours[:, None].expand(3, 96, -1)

    (found,) = video([wave(0.0)], codec, VIDEO_CODECS[codec].mild)
    centered = (found - found.mean((1, 2), keepdim=True))[0].mean(0)[16:112]
    phase = torch.atan2((centered * -torch.cos(x[16:112])).sum(), (centered * torch.sin(x[16:112])).sum())
    assert abs(phase.item()) * 32 / (2 * torch.pi) < 0.1
