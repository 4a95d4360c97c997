"""What is known of a video's damage, from the packets read and the frames decoded."""

from __future__ import annotations

from typing import Any

__all__ = ["Damage"]


class Damage:
    """Follows the packets that go into a decoder and the frames that come out.

    Packets are numbered, and the decoder hands the number on to the packet's frame
    (``copy_opaque``). So a frame is known to come before or after the damage in the file, though
    frames are shown in another order.

    Attributes:
        packets: that were read.
        frames: that were decoded, those before the first key frame left out.
        lost: packets that nothing could be decoded of.
    """

    def __init__(self) -> None:
        self.packets = self.frames = self.lost = 0
        self._since: int | None = None  # the packet that damage begins with
        self._waits = False  # for the first key frame
        self._begins: float | None = None  # the first packet's time, in seconds
        self._times: list[float] = []  # of the last but one and the last frame, in seconds

    def send(self, packet: Any) -> None:
        """Note a packet before it is decoded."""
        if not packet.size:  # the end of the file: what waits in the decoder comes out
            return
        if not self.packets:
            self._waits = not packet.is_keyframe
        if packet.is_corrupt:
            self._begin(self.packets)
        if packet.pts is not None and not packet.is_discard:
            seconds = float(packet.pts * packet.time_base)
            self._begins = seconds if self._begins is None else min(self._begins, seconds)
        packet.opaque = (self.packets, packet.is_keyframe)
        self.packets += 1

    def lose(self, number: int) -> None:
        """Nothing can be decoded of a packet, or of what lies at its place in the file."""
        if not self._waits:  # without a key frame before it, it is no loss
            self.lost += 1
            self._begin(number)

    def receive(self, frame: Any) -> bool | None:
        """Note a frame, in the order of showing: whether it is damaged.

        None of one that cannot be shown: it is decoded from frames that lie before the file.
        """
        number, from_key = frame.opaque or (self.packets - 1, False)
        is_key = frame.key_frame or from_key
        if self._waits:
            if not is_key:
                return None
            self._waits, self._since = False, None
        if frame.is_corrupt:
            self._begin(number)
        elif is_key and self._since is not None and number > self._since:
            self._since = None
        self.frames += 1
        if frame.time is not None:
            self._times = [*self._times[-1:], frame.time]
        return self._since is not None and number >= self._since

    def late_start(self, frame: Any) -> str | None:
        """What is said of a video whose first frame that can be decoded is not its first."""
        number, _ = frame.opaque or (0, True)
        if self._begins is None or frame.time is None or frame.time <= self._begins or not number:
            return None
        return (
            f"begins between two key frames: its first {frame.time - self._begins:.2f} s cannot "
            "be decoded, all from there is done"
        )

    def missing(self, lasts: float, promised: int, *, alone: bool) -> str | None:
        """What is said of a video that was cut off, or lost packets; None of any other.

        Args:
            lasts: seconds, by the header; 0: it does not say.
            promised: packets, by the header; 0: it does not say.
            alone: no sound lasts longer than the picture.
        """
        # Of a film that was cut out of another, Matroska counts the length from the other's start.
        last = self._times[-1] if self._times else 0.0
        covered = max(last, last - (self._begins or 0.0))
        gap = last - self._times[0] if self._times else 0.0
        # A count may include frames that an edit list hides; Matroska has none, but says how long it lasts.
        fewer, shorter = self.packets < promised, lasts - covered > 1.5 * gap
        much_shorter = not promised and alone and lasts - covered > max(1.0, 2 * gap)
        if (fewer and shorter) or much_shorter:
            return f"cut off: {self.frames} frames in {covered:.1f} of {lasts:.1f} s"
        if self.lost:
            return (
                f"damaged: no frame could be decoded in {self.lost} places; "
                f"the {self.frames} others are done"
            )
        return None

    def _begin(self, number: int) -> None:
        self._since = number if self._since is None else min(self._since, number)
