import time

from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's, drawn ten times a second at most: left alone it is drawn twice in every step."""

    interval = 0.1  # seconds

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if not self.is_enabled or (now < self._next and current != total):
            return False
        self._next = now + self.interval
        return True
