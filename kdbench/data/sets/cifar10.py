"""CIFAR-10."""

from kdbench.data._base import register
from kdbench.data.torchvision import TorchvisionFile


@register("cifar10")
class Cifar10(TorchvisionFile):
    """Ten classes of 32x32 colour photographs.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images". Mean and std: of the 50,000
    training images, as printed in most training recipes.
    """

    kind = "CIFAR10"
    title = "CIFAR-10"
    classes = 10
    image_shape = (3, 32, 32)
    n_train = 50_000
    n_test = 10_000
    crop = 4
    flip = True
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    licence = "none stated by the publisher; cite Krizhevsky 2009"
