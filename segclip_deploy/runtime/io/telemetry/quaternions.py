"""Turns in space as unit quaternions (w, x, y, z).

The angles are those of aircraft: yaw about down, then pitch about right, then roll about forward,
each from the axes north, east, down to forward, right, down (ISO 1151-1).
"""

from __future__ import annotations

import math

__all__ = ["Quaternion", "angles_of", "multiply", "quaternion_of", "slerp"]

Quaternion = tuple[float, float, float, float]
"""(w, x, y, z), of length 1."""

_NEARLY_ONE = 0.9995  # cosine above which a sine in a denominator loses digits


def quaternion_of(roll: float, pitch: float, yaw: float) -> Quaternion:
    """The turn by these angles, degrees.

    Formula: Diebel, Representing Attitude, 2006, section 5.12 (sequence 1, 2, 3).

    Examples:
        >>> quaternion_of(0, 0, 180)[3]
        1.0
    """
    (cr, sr), (cp, sp), (cy, sy) = (
        (math.cos(half), math.sin(half))
        for half in (math.radians(angle) / 2 for angle in (roll, pitch, yaw))
    )
    return (
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    )


def angles_of(turn: Quaternion) -> tuple[float, float, float]:
    """(roll, pitch, yaw) of a turn, degrees; straight down and straight up, roll is 0.

    There roll and yaw turn about one axis, and only their sum or difference is known.

    Formula: Diebel, Representing Attitude, 2006, section 5.12 (sequence 1, 2, 3).

    Examples:
        >>> [round(angle, 9) for angle in angles_of(quaternion_of(10, 20, -30))]
        [10.0, 20.0, -30.0]
    """
    w, x, y, z = turn
    sine = max(-1.0, min(1.0, 2 * (w * y - x * z)))
    if abs(sine) > 1 - 1e-9:
        yaw = _within_half_turn(math.degrees(2 * math.atan2(z, w)))
        return 0.0, math.copysign(90.0, sine), yaw
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return math.degrees(roll), math.degrees(math.asin(sine)), math.degrees(yaw)


def multiply(first: Quaternion, second: Quaternion) -> Quaternion:
    """The turn ``second`` within the axes that ``first`` has turned (Hamilton's product).

    Examples:
        >>> multiply((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
        (0.0, 0.0, 0.0, 1.0)
    """
    a, b, c, d = first
    w, x, y, z = second
    return (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )


def slerp(first: Quaternion, second: Quaternion, share: float) -> Quaternion:
    """The turn at ``share`` of the shortest way from ``first`` (0) to ``second`` (1).

    Formula: Shoemake, Animating Rotation with Quaternion Curves, 1985, section 3.3.

    Examples:
        >>> half = slerp(quaternion_of(0, 0, 170), quaternion_of(0, 0, -170), 0.5)
        >>> abs(round(angles_of(half)[2], 9))
        180.0
    """
    cosine = sum(a * b for a, b in zip(first, second, strict=True))
    sign = math.copysign(1.0, cosine)  # q and −q are the same turn; one of them is nearer
    cosine = abs(cosine)
    if cosine > _NEARLY_ONE:
        start, end = 1 - share, share
    else:
        angle = math.acos(cosine)
        start = math.sin((1 - share) * angle) / math.sin(angle)
        end = math.sin(share * angle) / math.sin(angle)
    mixed = [start * a + sign * end * b for a, b in zip(first, second, strict=True)]
    length = math.hypot(*mixed)
    w, x, y, z = (part / length for part in mixed)
    return w, x, y, z


def _within_half_turn(angle: float) -> float:
    """An angle in degrees as one from −180 to 180."""
    return (angle + 180) % 360 - 180
