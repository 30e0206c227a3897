"""Whether a trained network's weights are at hand and whole, before others are trained with them."""

from __future__ import annotations

from collections.abc import Callable

from kdbench.errors import CheckpointError
from kdbench.store import Store
from kdbench.train import checkpoint


class SoundWeights:
    """Answers by key. A file that does not fit its checksum is set aside, so that its training is done again.

    say: is told of each. Every file is read once, when a training is about to need it.
    """

    def __init__(self, store: Store, say: Callable[[str], object]) -> None:
        self.store, self.say = store, say
        self._sound: dict[str, bool] = {}
        self._condemned: dict[str, int] = {}  # damaged files that are still there, by key: their inodes

    def __call__(self, key: str) -> bool:
        """Whether the weights of that key can be used."""
        if key in self._condemned:
            return False
        if not self._sound.get(key, False):
            self._sound[key] = self._look(key)
        return self._sound[key]

    def damaged(self, key: str) -> bool:
        """Whether the file has been damaged since it was made or looked at; asked while trainings may be reading it.

        It stays until it is made again, because a file that is missing would be the fault of those that need it.
        """
        path = self.store.weights_path(key)
        try:
            inode = path.stat().st_ino
            checkpoint.load(path)
        except FileNotFoundError:
            return False
        except CheckpointError as error:
            if self._condemned.get(key) != inode:
                self._condemned[key] = inode
                aside = self.store.set_aside(path, copy=True)
                self.say(f"{error} Set aside as {aside}; the network is trained again.")
            return True
        self._condemned.pop(key, None)
        return False

    def _look(self, key: str) -> bool:
        path = self.store.weights_path(key)
        if not path.exists():
            return False
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            aside = self.store.set_aside(path)
            self.say(f"{error} Set aside as {aside}; the network is trained again.")
            return False
        return True
