from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.data.views import Views


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 4),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels=st.integers(1, 4),
    crop=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_view_is_pad_then_crop_then_mirror(
    n: int, height: int, width: int, channels: int, crop: int, flip: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)
    views = Views(pixels, crop, flip, [0.0] * channels, [1.0] * channels)
    index = torch.randint(n, (6,), generator=generator)
    view = views.draw(6, generator)
    batch = (views.batch(index, view) * 255).round().byte()
    side = 2 * crop + 1
    padded = torch.nn.functional.pad(pixels.permute(0, 3, 1, 2), (crop, crop, crop, crop))
    for row, (i, v) in enumerate(zip(index.tolist(), view.tolist(), strict=True)):
        mirrored, place = divmod(v, side * side)
        top, left = divmod(place, side)
        window = padded[i, :, top : top + height, left : left + width]
        assert torch.equal(batch[row], window.flip(2) if mirrored else window)
