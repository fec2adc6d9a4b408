"""Samples into figures: medians, percentiles, ratios, tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "Intermodal"


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that `percent` of 100 samples do not exceed."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))  # rounded up
    return ordered[int(rank) - 1]


@dataclass
class Measure:
    """One quantity, for us and for peers: one sample a round, so that what disturbs a round disturbs all in it."""

    name: str
    unit: str
    more_is_better: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, value: float) -> None:
        """The value of the round under way."""
        self.samples.setdefault(who, []).append(value)

    def median(self, who: str) -> float:
        return statistics.median(self.samples[who])

    def spread(self, who: str) -> tuple[float, float]:
        """The lowest and the highest round."""
        return min(self.samples[who]), max(self.samples[who])

    def ratio(self, peer: str) -> float | None:
        """Ours divided by the peer's: the median over rounds that both took part in. None where there is none."""
        pairs = zip(self.samples.get(OURS, []), self.samples.get(peer, []), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None


@dataclass
class Section:
    """What one benchmark found: quantities, and notes in words."""

    name: str
    title: str
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load: tuple[float, float] = (0.0, 0.0)  # of the machine, at begin and end

    def measure(self, name: str, unit: str, *, more_is_better: bool = False) -> Measure:
        """The quantity of this name, new where it is not there yet."""
        for known in self.measures:
            if known.name == name:
                return known
        made = Measure(name, unit, more_is_better)
        self.measures.append(made)
        return made


def shown(value: float) -> str:
    """A figure with as many digits as mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    for limit, digits in ((100, 0), (10, 1), (0.1, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def compared(measure: Measure, peer: str) -> str:
    """How we stand to a peer, in words."""
    ratio = measure.ratio(peer)
    if peer == OURS or not ratio:
        return ""
    better = ratio > 1 if measure.more_is_better else ratio < 1
    times = max(ratio, 1 / ratio)
    return f"{shown(times)} times {'better' if better else 'worse'}"


def table(section: Section) -> str:
    """Markdown, aligned so that it reads well as plain text too."""
    lines = [
        f"### {section.title}",
        "",
        f"Load of the machine: {section.load[0]:.1f} before, {section.load[1]:.1f} after.",
    ]
    rows = [["", "who", "median", "lowest – highest round", "we are"]]
    for measure in section.measures:
        for who in sorted(measure.samples, key=lambda name: name != OURS):
            low, high = measure.spread(who)
            name = f"{measure.name}" if who == OURS or OURS not in measure.samples else ""
            figure = f"{shown(measure.median(who))} {measure.unit}".strip()
            rounds = len(measure.samples[who])
            spread = f"{shown(low)} – {shown(high)} ({rounds})" if rounds > 1 else "(1)"
            rows.append([name, who, figure, spread, compared(measure, who)])
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        rows.insert(1, ["-" * width for width in widths])
        lines.append("")
        lines += [
            "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
    lines += ["", *(f"- {note}" for note in section.notes)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(section: Section) -> dict[str, Any]:
    """The section with every sample."""
    return {
        "name": section.name,
        "load": section.load,
        "notes": section.notes,
        "measures": [
            {
                "name": measure.name,
                "unit": measure.unit,
                "samples": measure.samples,
                "ratios": {who: measure.ratio(who) for who in measure.samples if who != OURS},
            }
            for measure in section.measures
        ],
    }
