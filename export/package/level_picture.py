"""The drawing of the model card that shows what was asked against what was kept."""

from __future__ import annotations

import math

from runtime.package.records import LevelRecord

LEVEL_PICTURE = "level.svg"
"""Its name in the package."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 336, 14, 254
_LEGEND = {"kept": "mean of the images", "range": "10 to 90 % of them"}
_LEGEND |= {"moved": "mean, regions moved", "asked": "kept = asked"}
_STYLE = """text { font: 12px sans-serif }
polyline, path { fill: none; stroke-width: 2 }
.grid { stroke: #8884; stroke-width: 1 }
.kept { stroke: #1f5fa8 }
.range { fill: #1f5fa833 }
.moved { stroke: #b3541e; stroke-dasharray: 7 3 }
.asked { stroke: #777; stroke-dasharray: 2 3 }"""


def level_picture(level: LevelRecord) -> str:
    """SVG, 530 x 300, of `level.checks`: the mean kept, its range, and the mean that moved regions keep."""
    asked = [check.asked for check in level.checks]
    least = min(value for check in level.checks for value in (check.low, check.moved))
    floor = min(0, math.floor(5 * least))  # in fifths

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - asked[0]) / (1 - asked[0])

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (5 * value - floor) / (5 - floor)

    def points(field: str) -> list[str]:
        return [f"{x(check.asked):.1f},{y(getattr(check, field)):.1f}" for check in level.checks]

    drawn = []
    for value in (fifth / 5 for fifth in range(floor, 6)):
        drawn.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_RIGHT}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    drawn += [f'<text x="{x(a):.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{a:g}</text>' for a in asked]
    drawn.append(f'<polygon class="range" points="{" ".join(points("low") + points("high")[::-1])}"/>')
    for name in ("asked", "moved", "kept"):
        drawn.append(f'<polyline class="{name}" points="{" ".join(points(name))}"/>')
    for row, (name, text) in enumerate(_LEGEND.items()):
        at = _TOP + 6 + 22 * row
        shape = f"M356 {at - 6}h22v12h-22z" if name == "range" else f"M356 {at}h22"
        drawn.append(f'<path class="{name}" d="{shape}"/><text x="386" y="{at + 4}">{text}</text>')
    body = "\n".join(drawn)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="530" height="300" viewBox="0 0 530 300">
<style>{_STYLE}</style>
<rect width="530" height="300" fill="white"/>
{body}
<text x="{_LEFT}" y="291">asked: region(keep=...)</text>
<text transform="translate(16 {_BOTTOM}) rotate(-90)">kept: centred cosine</text>
</svg>
"""
