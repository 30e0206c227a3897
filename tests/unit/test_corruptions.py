"""Corrupted images: what each corruption does, that severity orders the damage, and that it is always the same."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from kdbench import data
from kdbench.data.corrupted import blur, digital, drops, noise, weather
from kdbench.data.corrupted.draws import Draws, pixels
from kdbench.data.corruptions import CORRUPTIONS, IN_COLOUR, SEVERITIES, corrupt, possible, require
from kdbench.errors import DataError

# With the published parameters these do not grow from one severity to the next: the affine part of the elastic
# transform shrinks, a wider blur evens out what frosted glass has shuffled, saturation first falls and then rises, and
# drops of water become a little mud.
NOT_IN_ORDER = ("elastic_transform", "glass_blur", "saturate", "spatter")


def smooth(n: int = 16, side: int = 32, channels: int = 3) -> np.ndarray:
    """Images without noise of their own, from black to white."""
    rough = np.random.RandomState(0).uniform(size=(n, side, side, channels))
    even = ndimage.gaussian_filter(rough, (0, 3, 3, 0), mode="wrap")
    low, high = even.min(axis=(1, 2, 3), keepdims=True), even.max(axis=(1, 2, 3), keepdims=True)
    return ((even - low) / (high - low) * 255).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def draws(n: int = 1, name: str = "test") -> Draws:
    return Draws(name, 1, list(range(n)))


def one_pixel(*rgb: int) -> np.ndarray:
    return np.tile(np.array(rgb, np.uint8), (1, 8, 8, 1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_again_and_whatever_images_are_beside_it(name: str) -> None:
    images = smooth(5)
    before = images.copy()
    whole = corrupt(images, name, 3, [7, 1, 4, 9, 2])
    assert whole.dtype == np.uint8 and whole.shape == images.shape
    assert np.array_equal(images, before), "the images that were given have changed"
    assert not np.array_equal(whole, images)
    assert np.array_equal(corrupt(images, name, 3, [7, 1, 4, 9, 2]), whole)
    assert np.array_equal(corrupt(images[3:4], name, 3, [9]), whole[3:4])


@cache
def cifar() -> np.ndarray:
    test = data.load({"name": "cifar10", "validation": 10, "train": 10}, test=True).test
    assert test is not None
    return test.images[:48].numpy()


SETS = [pytest.param(smooth, id="smooth")]
if data.describe({"name": "cifar10"}).available:
    SETS.append(pytest.param(cifar, id="cifar10", marks=pytest.mark.cifar))


@pytest.mark.parametrize("images_of", SETS)
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_IN_ORDER])
def test_every_severity_damages_more_than_the_one_before(name: str, images_of: Callable[[], np.ndarray]) -> None:
    images = images_of()
    damage = [psnr(corrupt(images, name, severity, range(len(images))), images) for severity in SEVERITIES]
    assert damage == sorted(damage, reverse=True), damage


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_0_changes_nothing(name: str) -> None:
    images = smooth(2)
    clean = corrupt(images, name, 0, [0, 1])
    assert np.array_equal(clean, images) and clean is not images


@pytest.mark.parametrize("name", possible(1))
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (20, 12)])
def test_grey_images_of_other_sizes_are_corrupted_too(name: str, shape: tuple[int, int]) -> None:
    images = np.ascontiguousarray(smooth(2, 32, 1)[:, : shape[0], : shape[1]])
    made = corrupt(images, name, 5, [0, 1])
    assert made.shape == images.shape and not np.array_equal(made, images)


def test_brightness_raises_the_largest_channel_by_its_amount_and_keeps_the_hue() -> None:
    # severity 4: 0.2 of 255 is 51, so the largest channel goes from 100 to 151, and all by the factor 1.51
    assert corrupt(one_pixel(100, 50, 0), "brightness", 4, [0])[0, 0, 0].tolist() == [151, 75, 0]
    assert corrupt(one_pixel(0, 0, 0), "brightness", 4, [0])[0, 0, 0].tolist() == [51, 51, 51]
    assert corrupt(one_pixel(255, 255, 255), "brightness", 5, [0])[0, 0, 0].tolist() == [255, 255, 255]


def test_contrast_draws_values_towards_their_mean() -> None:
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :4] = 200  # mean 100; severity 2 halves the distance
    made = corrupt(image, "contrast", 2, [0])
    assert set(np.unique(made[:, :4])) == {150} and set(np.unique(made[:, 4:])) == {50}


def test_saturation_is_scaled_and_raised_and_grey_becomes_reddish() -> None:
    # severity 1 scales by 0.3: 0.5 becomes 0.15, and 200 (1 - 0.15) is 170
    assert corrupt(one_pixel(200, 100, 100), "saturate", 1, [0])[0, 0, 0].tolist() == [200, 170, 170]
    # severity 5 scales by 2.5 and adds 0.2: grey has 0.2 then, and 100 (1 - 0.2) is 80
    assert corrupt(one_pixel(100, 100, 100), "saturate", 5, [0])[0, 0, 0].tolist() == [100, 80, 80]


@pytest.mark.parametrize(
    ("name", "severity", "change"),
    [
        ("brightness", 3, lambda h, s, v: (h, s, min(v + 0.15, 1))),
        ("saturate", 3, lambda h, s, v: (h, min(s * 1.5, 1), v)),
        ("saturate", 4, lambda h, s, v: (h, min(s * 2 + 0.1, 1), v)),
    ],
)
def test_colours_change_as_in_hsv_of_the_standard_library(name: str, severity: int, change: object) -> None:
    image = np.random.RandomState(1).randint(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    made = corrupt(image, name, severity, [0])
    for before, after in zip(image.reshape(-1, 3), made.reshape(-1, 3), strict=True):
        wanted = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(before / 255))))  # type: ignore[operator]
        assert after.tolist() == pixels(np.array(wanted)).tolist()


def test_impulse_noise_sets_its_share_of_values_to_black_or_white_alike_often() -> None:
    image = np.full((4, 64, 64, 3), 127, np.uint8)
    made = corrupt(image, "impulse_noise", 5, range(4))
    n, hit = made.size, made != 127
    assert set(np.unique(made)) == {0, 127, 255}
    assert abs(hit.sum() - 0.07 * n) < 5 * np.sqrt(n * 0.07 * 0.93)
    assert abs((made == 255).sum() - hit.sum() / 2) < 5 * np.sqrt(hit.sum() / 4)


@pytest.mark.parametrize(
    ("make", "spread"),
    # of grey 0.5: 0.1 as it is; a Poisson number of mean 25 over 50 has spread 5 / 50; 0.2 of the brightness 0.5
    [(noise.gaussian, 0.1), (noise.shot, 0.1), (noise.speckle, 0.1)],
)
def test_noise_has_its_spread_and_no_shift(make: object, spread: float) -> None:
    grey = np.full((4, 64, 64, 3), 0.5)
    made = make(grey, 5, draws(4))  # type: ignore[operator]
    assert made.std() == pytest.approx(spread, rel=0.02)  # 49152 values: the error of a spread is 0.3 %
    assert made.mean() == pytest.approx(0.5, abs=5 * spread / np.sqrt(grey.size))


def test_defocus_of_a_bright_pixel_is_a_disc() -> None:
    image = np.zeros((1, 15, 15, 3), np.uint8)
    image[0, 7, 7] = 255
    made = corrupt(image, "defocus_blur", 5, [0])[0, :, :, 0]
    # radius 1.5 holds the 3 x 3 pixels, and a filter of width 0.1 changes nothing: 255 / 9 is 28.3
    assert np.argwhere(made > 0).tolist() == [[i, j] for i in (6, 7, 8) for j in (6, 7, 8)]
    assert set(made[made > 0]) == {28}
    assert blur.disc(0.3, 0.4).sum() == pytest.approx(1)


def test_zoom_blur_is_the_mean_of_what_scipy_enlarges() -> None:
    x = smooth(2) / 255
    total = x.copy()
    for factor in np.arange(1, 1.16, 0.01):
        kept = int(np.ceil(32 / factor))
        first = (32 - kept) // 2
        for number in range(2):
            part = x[number, first : first + kept, first : first + kept]
            large = ndimage.zoom(part, (factor, factor, 1), order=1)
            cut = (len(large) - 32) // 2
            total[number] += large[cut : cut + 32, cut : cut + 32]
    assert blur.zoom(x, 3, draws(2)) == pytest.approx(total / 17, abs=1e-12)


def test_motion_smears_along_a_line_with_half_a_gaussian_and_continued_edges() -> None:
    x, radius, sigma = smooth(2)[:, :9, :9] / 255, 3, 1.5
    degrees = np.array([0.0, 30.0])
    weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    wanted = np.zeros_like(x)
    for n, angle in enumerate(np.deg2rad(degrees)):
        for row in range(9):
            for column in range(9):
                for i, weight in enumerate(weights):
                    down, across = np.ceil(i * np.sin(angle) - 0.5), np.ceil(i * np.cos(angle) - 0.5)
                    source = x[n, int(min(row + down, 8)), int(min(column + across, 8))]
                    wanted[n, row, column] += weight / sum(weights) * source
    made = blur.smeared(x, radius, sigma, degrees)
    assert made == pytest.approx(wanted, abs=0.5 / 255 + 1e-9)
    assert made * 255 == pytest.approx(np.round(made * 255), abs=1e-9), "a file holds whole steps"


def test_frosted_glass_puts_neighbours_in_place_of_pixels_one_after_the_other() -> None:
    x = smooth(2)[:, :8, :8] / 255
    steps = draws(2).integers(-1, 1, (1, 6, 6, 2))
    wanted = pixels(x)
    for n in range(2):
        for i, row in enumerate(range(7, 1, -1)):
            for j, column in enumerate(range(7, 1, -1)):
                right, down = steps[n, 0, i, j]
                wanted[n, row, column] = wanted[n, row + down, column + right]
    # severity 1 has a blur of 0.05 pixels, which is none
    assert np.array_equal(pixels(blur.glass(x, 1, draws(2))), wanted)


def test_fog_fills_the_range_and_is_coarse_before_it_is_fine() -> None:
    haze = weather.plasma(32, 3.0, draws(3))
    assert haze.min(axis=(1, 2)).tolist() == [0, 0, 0] and haze.max(axis=(1, 2)).tolist() == [1, 1, 1]
    steps = np.abs(np.diff(haze, axis=1)).mean()
    assert steps < np.abs(np.diff(haze[:, ::8], axis=1)).mean() / 2
    # on white, haze h and thickness 0.2: (1 + 0.2 h) / 1.2, so 0.833 to 1
    white = weather.fog(np.ones((3, 32, 32, 3)), 1, draws(3))
    assert white.min() == pytest.approx(1 / 1.2) and white.max() == pytest.approx(1)


def test_a_plasma_of_two_by_two_is_made_as_by_hand() -> None:
    a, b, c = draws().uniform(-1, 1, (3,))[0] * 100**2  # middle, then the two points beside the corner, which is 0
    above = (2 * a + 0) / 4 + b  # the middle counts from both sides, and so does the corner
    beside = (2 * a + 0) / 4 + c
    field = np.array([[0, above], [beside, a]])
    assert weather.plasma(2, 3.0, draws())[0] == pytest.approx((field - field.min()) / np.ptp(field))


def test_an_elastic_transform_that_moves_nothing_changes_nothing_and_one_that_shifts_shifts() -> None:
    x = smooth(1) / 255
    points = np.array([[26, 26], [26, 6], [6, 6]])
    same = digital.sampled(x, *digital._sources(points, points[None].astype(float), 32, 32), "mirror")
    assert same == pytest.approx(x, abs=1e-9)
    right = digital.sampled(x, *digital._sources(points, points[None] + np.array([1.0, 0.0]), 32, 32), "mirror")
    assert right[:, :, 1:] == pytest.approx(x[:, :, :-1], abs=1e-9)


def test_jpeg_and_pixels_are_what_pillow_makes_of_them() -> None:
    image = smooth(1)
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=58)
    assert np.array_equal(corrupt(image, "jpeg_compression", 3, [0])[0], np.asarray(Image.open(file)))
    box = Image.Resampling.BOX
    large = Image.fromarray(image[0]).resize((24, 24), box).resize((32, 32), box)
    assert np.array_equal(corrupt(image, "pixelate", 4, [0])[0], np.asarray(large))


def test_edges_are_the_outline_of_a_square_and_weak_ones_count_only_beside_strong_ones() -> None:
    wet = np.zeros((2, 16, 16), np.uint8)
    wet[0, 4:12, 4:12] = 200
    wet[1, 4:12, 4:12] = 20  # a gradient of 4 * 20 at the sides and 6 * 20 at the corners: weak, and nothing strong
    found = drops.edges(wet)
    assert found[0].any() and not found[0, 7:9, 7:9].any() and not found[0, :2].any()
    assert not found[1].any()


def test_a_histogram_is_evened_out() -> None:
    image = np.array([[[10, 10], [20, 30]]], np.uint8)  # 2, 1, 1 of 4; the lowest becomes 0, then 1 / 2 and 2 / 2
    assert drops.equalised(image)[0].tolist() == [[0, 0], [128, 255]]
    assert drops.equalised(np.full((1, 2, 2), 20, np.uint8))[0].tolist() == [[20, 20], [20, 20]]


def test_an_image_without_drops_is_alike_alone_and_beside_others() -> None:
    wet = np.zeros((2, 16, 16), np.uint8)
    wet[1, 4:12, 4:12] = 200
    assert np.array_equal(drops.relief_of(wet)[0], drops.relief_of(wet[:1])[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((smooth(1), "frost", 1, [0]), "unknown corruption 'frost'. Known: gaussian_noise"),
        ((smooth(1), "fogg", 1, [0]), "Did you mean 'fog'?"),
        ((smooth(1), "fog", 6, [0]), r"severity 6 of fog. Allowed: 0 \(unchanged\) to 5."),
        ((smooth(1) / 255, "fog", 1, [0]), "corruptions need images, uint8"),
        ((smooth(1)[..., :2], "fog", 1, [0]), "with 1 or 3 channels"),
        ((smooth(1, 32, 1), "saturate", 1, [0]), "saturate needs images in colour"),
        ((smooth(1)[:, :4], "fog", 1, [0]), "at least 8 x 8 pixels"),
        ((smooth(2), "fog", 1, [0]), "2 images but 1 positions"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        corrupt(*arguments)


def test_images_in_colour_can_have_all_and_grey_ones_those_that_do_not_tint() -> None:
    assert possible(3) == CORRUPTIONS and len(CORRUPTIONS) == 18
    assert set(possible(3)) - set(possible(1)) == set(IN_COLOUR)


def test_a_missing_pillow_is_named_before_anything_is_corrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require(["fog", "snow"])
    with pytest.raises(
        DataError, match=r"jpeg_compression: Pillow is not installed. Run: pip install 'kdbench\[vision\]'"
    ):
        require(["fog", "jpeg_compression"])
