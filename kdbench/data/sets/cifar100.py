"""CIFAR-100."""

from kdbench.data._base import register
from kdbench.data.torchvision import TorchvisionFile


@register("cifar100")
class Cifar100(TorchvisionFile):
    """A hundred fine classes of 32x32 colour photographs.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images". Mean and std: of the 50,000
    training images, as printed in most training recipes.
    """

    kind = "CIFAR100"
    title = "CIFAR-100"
    classes = 100
    image_shape = (3, 32, 32)
    n_train = 50_000
    n_test = 10_000
    crop = 4
    flip = True
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    licence = "none stated by the publisher; cite Krizhevsky 2009"
    note = "ten test images also occur among the training images, as published"
