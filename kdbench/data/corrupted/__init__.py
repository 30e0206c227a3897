"""How each corruption is made: functions (images, severity, draws) -> images, float64 (N, H, W, C) in [0, 1]."""

from kdbench.data.corrupted import blur, colour, digital, drops, noise, weather
from kdbench.data.corrupted.draws import Maker

MAKERS: dict[str, Maker] = {
    "gaussian_noise": noise.gaussian, "shot_noise": noise.shot, "impulse_noise": noise.impulse,
    "speckle_noise": noise.speckle,
    "defocus_blur": blur.defocus, "gaussian_blur": blur.gaussian, "glass_blur": blur.glass,
    "motion_blur": blur.motion, "zoom_blur": blur.zoom,
    "snow": weather.snow, "fog": weather.fog, "spatter": drops.spatter,
    "brightness": colour.brightness, "contrast": colour.contrast, "saturate": colour.saturate,
    "elastic_transform": digital.elastic, "pixelate": digital.pixelate, "jpeg_compression": digital.jpeg,
}  # fmt: skip

__all__ = ["MAKERS"]
