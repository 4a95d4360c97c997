"""What is known of a video's damage, from the packets read and the frames decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Damage", "is_cut_off"]

_HELD = 8  # frames; encoders reorder fewer
_EMPTY = 16  # bytes of a packet that may say "as before" (MPEG-4 in AVI)
_ONE_EACH = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg")


@dataclass
class _Held:
    """A frame that is held back, its packet's number, and whether it is damaged."""

    frame: Any
    number: int
    damaged: bool


class Damage:
    """Follows the packets that go into a decoder and the frames that come out.

    Packets are numbered, and the decoder hands the number on to the packet's frame
    (``copy_opaque``). So a frame is known to come before or after the damage in the file, though
    frames are shown in another order.

    Args:
        codec: FFmpeg's name of the codec.

    Attributes:
        packets: that were read.
        frames: that were decoded, those before the first key frame left out.
        lost: packets that nothing could be decoded of.
    """

    def __init__(self, codec: str = "") -> None:
        self.packets = self.frames = self.lost = 0
        self._since: int | None = None  # the packet that damage begins with
        self._pending: set[int] = set()  # packets whose frames have not been shown
        self._one_each = codec in _ONE_EACH  # and not interlaced: two fields make one frame
        self._firm = 0  # misses up to this packet are none
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
        if packet.size > _EMPTY and not packet.is_discard:
            self._pending.add(self.packets)
        self.packets += 1

    def lose(self, number: int) -> None:
        """Nothing can be decoded of a packet, or of what lies at its place in the file."""
        self._pending.discard(number)
        if not self._waits:  # without a key frame before it, it is no loss
            self.lost += 1
            self._begin(number)

    def settle(self, frames: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Frames, in the order of showing, each with whether it is damaged.

        A frame may be shown before one that it is decoded from, and that turns out to be damaged.
        So a few are held back until all before them in the file have been seen.
        """
        held: list[_Held] = []
        for frame in frames:
            damaged = self._receive(frame)
            if damaged is None:
                continue
            number = self._number(frame)
            if frame.is_corrupt:
                self._mark(held, number)
            held.append(_Held(frame, number, damaged))
            while held:
                missing = self._before(held[0].number)
                if missing and len(held) <= _HELD:
                    break
                self._miss(held, missing)
                first = held.pop(0)
                yield first.frame, first.damaged
        self._miss(held, sorted(self._pending))
        yield from ((item.frame, item.damaged) for item in held)

    def _before(self, number: int) -> list[int]:
        return sorted(n for n in self._pending if n < number)

    def _miss(self, held: list[_Held], numbers: list[int]) -> None:
        """Packets that no frame came of, without an error: lost, where each has to give one."""
        for number in numbers:
            self._pending.discard(number)
            if self._one_each and number > self._firm:
                self.lost += 1
                if self._mark(held, number):
                    self._begin(number)

    def _mark(self, held: list[_Held], number: int) -> bool:
        """Mark frames that were decoded after a packet; whether no key frame has come since."""
        for item in held:
            if item.number > number and item.frame.key_frame:
                return False
            item.damaged |= item.number > number
        return True

    def _number(self, frame: Any) -> int:
        return int(frame.opaque[0]) if frame.opaque else self.packets - 1

    def _receive(self, frame: Any) -> bool | None:
        """Note a frame, in the order of showing: whether it is damaged.

        None of one that cannot be shown: it is decoded from frames that lie before the file.
        """
        number = self._number(frame)
        # Of two packets that make one frame (fields), one stays: it is not waited for long.
        self._pending = {n for n in self._pending if n > number - 3 * _HELD and n != number}
        if not self.frames:
            self._one_each = self._one_each and not frame.interlaced_frame
            # Frames after the first key frame may need some before it (open groups, leading frames).
            self._firm = number + _HELD
        is_key = frame.key_frame or bool(frame.opaque and frame.opaque[1])
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
        if is_cut_off(self.packets, promised, covered=covered, lasts=lasts, gap=gap, alone=alone):
            return f"cut off: {self.frames} frames in {covered:.1f} of {lasts:.1f} s"
        if self.lost:
            return (
                f"damaged: no frame could be decoded in {self.lost} places; "
                f"the {self.frames} others are done"
            )
        return None

    def _begin(self, number: int) -> None:
        self._since = number if self._since is None else min(self._since, number)


def is_cut_off(
    count: int, promised: int, *, covered: float, lasts: float, gap: float, alone: bool
) -> bool:
    """Whether a film ends before its header says so.

    Args:
        count: frames that came.
        promised: by the header; 0: it does not say.
        covered: seconds up to the last frame.
        lasts: seconds, by the header; 0: it does not say.
        gap: seconds between the last two frames.
        alone: no sound lasts longer than the picture.
    """
    # A count may include frames that an edit list hides; Matroska has none, but says how long it lasts.
    fewer, shorter = count < promised, lasts - covered > 1.5 * gap
    much_shorter = not promised and alone and lasts - covered > max(1.0, 2 * gap)
    return (fewer and shorter) or much_shorter
