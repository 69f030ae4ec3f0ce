"""Who found the shorter perturbations in no more passes, and by how much: the numbers and sentences of the page."""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import torch

from benchmarks import measure

OURS = ("this book", "minimal_l2")
# Below so many passes an attack has hardly looked at each of ten classes.
FEWEST = 60


def table(results: dict) -> list[dict]:
    """A row for each attack, budget and case, judged by the best distances that any attack found there."""
    found, best = [], {}
    for key, rows in results["attacks"].items():
        classifier, images, budget = key.split("|")
        for row in rows:
            distance = torch.tensor([math.inf if d is None else d for d in row["distances"]], dtype=torch.float64)
            best[classifier, images] = _minimum(best.get((classifier, images), distance), distance)
            case = {"classifier": classifier, "images": images, "budget": budget if budget != "None" else ""}
            found.append(case | row | {"distance": distance, "passes": row["forward"] + row["backward"]})
    return [judged(row, best[row["classifier"], row["images"]]) for row in found]


def judged(row: dict, best: torch.Tensor) -> dict:
    """The row with its summary; `whole` says whether it covers all images of its case."""
    n = len(row["distance"])
    return row | {"n": n, "whole": n == len(best)} | measure.summary(row["distance"], best[:n])


def cases(rows: list[dict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["classifier"], row["images"]) for row in rows))


def of(rows: list[dict], case: tuple[str, str]) -> list[dict]:
    return [row for row in rows if (row["classifier"], row["images"]) == case]


def ours(row: dict) -> bool:
    return (row["library"], row["attack"]) == OURS


def peer(row: dict) -> bool:
    return row["library"] != OURS[0]


def at(rows: list[dict], gradients: int) -> dict | None:
    """Our run of so many gradients, on one case."""
    return next((row for row in rows if ours(row) and row["budget"] == str(gradients)), None)


def within(rows: list[dict], passes: float, statistic: str, who) -> dict | None:
    """Of the attacks that `who` admits and that took at most so many passes, the one with the smallest statistic."""
    able = [row for row in rows if who(row) and row["whole"] and row["passes"] <= passes + 1e-6]
    return min(able, key=lambda row: row[statistic], default=None)


def pool(rows: list[dict], gradients: float, name: str, who=lambda row: True) -> dict | None:
    """Image by image the best of all runs on one case that took at most so many gradients; it pays for all of them."""
    able = [row for row in rows if who(row) and row["backward"] <= gradients]
    if not able:
        return None
    distance, best = (reduce(_minimum, (row["distance"] for row in some)) for some in (able, rows))
    paid = {cost: sum(row[cost] for row in able) for cost in ("forward", "backward", "passes", "milliseconds")}
    found = able[0] | paid | {"library": "", "attack": name, "budget": f"{gradients:g}", "distance": distance}
    return judged(found, best)


def _minimum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The smaller of both; an attack that ran on the first images only leaves the others as they are."""
    short, long = sorted((one, other), key=len)
    return torch.cat([torch.minimum(short, long[: len(short)]), long[len(short) :]])


class Span(NamedTuple):
    """From `start` passes to `end` (infinite: and more) `leader` is ahead by `least` to `most` (fractions)."""

    start: float
    end: float
    leader: tuple[str, str]
    least: float
    most: float


def spans(rows: list[dict], statistic: str, fewest: float = FEWEST) -> list[Span]:
    """Who is ahead at which number of passes, for the rows of one case: ours, or the best single peer.

    At every number of passes each side has its best run that takes no more. Between the numbers of passes that some run
    took, nothing changes; so these, and `fewest`, are all that must be looked at. Equal is ours.
    """
    steps = sorted({fewest} | {row["passes"] for row in rows if row["whole"] and row["passes"] > fewest})
    found: list[Span] = []
    for start, end in zip(steps, [*steps[1:], math.inf], strict=True):
        mine, other = within(rows, start, statistic, ours), within(rows, start, statistic, peer)
        own, best = (row[statistic] if row else math.inf for row in (mine, other))
        leader, lead = (OURS, best / own - 1) if own <= best else ((other["library"], other["attack"]), own / best - 1)
        if math.isnan(lead):  # neither has found anything
            continue
        if found and found[-1].leader == leader:
            last = found.pop()
            found.append(Span(last.start, end, leader, min(last.least, lead), max(last.most, lead)))
        else:
            found.append(Span(start, end, leader, lead, lead))
    return found


def sentence(rows: list[dict], statistic: str) -> str:
    """`spans` in words: each peer that is ahead is named, and where, and by how much."""
    if not any(map(ours, rows)):
        return f"By the {statistic} nobody is ahead: `minimal_l2` has not been measured."
    found = spans(rows, statistic)
    if not found:
        return f"By the {statistic} nobody is ahead: every attack failed somewhere."
    behind = [span for span in found if span.leader != OURS]
    ahead = [span for span in found if span.leader == OURS]
    if not behind:
        least, most = min(span.least for span in ahead), max(span.most for span in ahead)
        return f"By the {statistic} `minimal_l2` is ahead from {FEWEST} passes up, by {_range(least, most)}."
    parts = "; ".join(
        f"*{span.leader[1]}* ({span.leader[0]}) {_where(span)}, by {_range(span.least, span.most)}" for span in behind
    )
    return f"By the {statistic} a peer is ahead: {parts}; `minimal_l2` {'elsewhere' if ahead else 'nowhere'}."


def _where(span: Span) -> str:
    if span.end == math.inf:
        return f"from {span.start:,.0f} passes up"
    return f"from {span.start:,.0f} to {span.end:,.0f} passes"


def _range(least: float, most: float) -> str:
    low, high = percent(least), percent(most)
    return high if low == high else f"{low} to {high}"


def percent(fraction: float) -> str:
    """So many per cent, in words where a number would say nothing."""
    if math.isinf(fraction):
        return "any factor, for the other fails on an image or has no run so short"
    if 0 < fraction < 0.0001:
        return "less than 0.01 %"
    return f"{100 * fraction:.{1 if fraction >= 0.001 or fraction == 0 else 2}f} %"


def pooled_sentence(mine: dict, others: dict) -> str:
    """One run of ours against the pool of all peers, in words."""
    found = []
    for statistic in ("mean", "median"):
        own, best = mine[statistic], others[statistic]
        verdict = f"ahead by {percent(best / own - 1)}" if own < best else f"behind by {percent(own / best - 1)}"
        found.append(f"{verdict if own != best else 'level'} by the {statistic}")
    return f"`minimal_l2` is {' and '.join(found)}."
