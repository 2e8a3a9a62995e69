"""Evaluates the part of PromQL that the alerts use, on made-up series with one sample per minute.

    firing(rule, {'up{job="a"}': "1x10 stale"}, 30) == [{"job": "a"}, ...]

Series have the format of promtool's unit tests: `0+10x5`, `3x60`, `_` (no sample), `stale` (the series
ended). `rate` does not extrapolate to the window's ends like Prometheus: the alerts use it only for
growth and ratios.
"""

import operator
import re
from datetime import timedelta
from itertools import pairwise

import promql_parser as pq

MINUTE = 60.0
LOOKBACK = 5  # minutes that a selector looks back for the last sample
STALE = object()
AGGREGATES = {
    "sum": sum,
    "max": max,
    "min": min,
    "avg": lambda v: sum(v) / len(v),
    "count": len,
}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
MATCHES = {
    "Equal": operator.eq,
    "NotEqual": operator.ne,
    "Re": lambda have, want: re.fullmatch(want, have),
    "NotRe": lambda have, want: not re.fullmatch(want, have),
}


def samples(text):
    """One value per minute; None for no sample."""
    values = []
    for part in text.split():
        found = re.fullmatch(r"(_|stale|-?[\d.]+)(?:([+-][\d.]+))?(?:x(\d+))?", part)
        assert found, part
        first, step, times = found.groups()
        count = 1 + int(times) if times and first != "_" else int(times or 1)
        start = {"_": None, "stale": STALE}.get(first, first)
        for number in range(count):
            values.append(float(start) + number * float(step or 0) if isinstance(start, str) else start)
    return values


class Database:
    """Series {(name, labels): values}."""

    def __init__(self, series):
        self.series = []
        for text, values in series.items():
            selector = pq.parse(text)
            labels = frozenset((m.name, m.value) for m in selector.matchers.matchers)
            self.series.append((selector.name, labels, samples(values)))

    def chosen(self, selector):
        for name, labels, values in self.series:
            have = dict(labels)
            if name == selector.name and all(
                MATCHES[str(m.op).removeprefix("MatchOp.")](have.get(m.name, ""), m.value)
                for m in selector.matchers.matchers
            ):
                yield labels, values


def value(node, data, minute):
    """A number, or {labels: number}."""
    match node:
        case pq.NumberLiteral():
            return node.val
        case pq.ParenExpr():
            return value(node.expr, data, minute)
        case pq.VectorSelector():
            found = {}
            for labels, values in data.chosen(node):
                recent = [v for v in values[max(0, minute - LOOKBACK + 1) : minute + 1] if v is not None]
                if recent and recent[-1] is not STALE:
                    found[labels] = recent[-1]
            return found
        case pq.AggregateExpr():
            by = re.findall(r"\w+", str(node.modifier).removeprefix("by")) if node.modifier else []
            groups = {}
            for labels, number in value(node.expr, data, minute).items():
                groups.setdefault(frozenset(pair for pair in labels if pair[0] in by), []).append(number)
            return {labels: AGGREGATES[str(node.op)](numbers) for labels, numbers in groups.items()}
        case pq.Call():
            return called(node.func.name, ranges(node.args[0], data, minute))
        case pq.BinaryExpr():
            assert node.modifier is None or not str(node.modifier), "matching on some labels is not done here"
            return combined(str(node.op), value(node.lhs, data, minute), value(node.rhs, data, minute))
    raise AssertionError(f"{type(node).__name__} is not done here")


def ranges(node, data, minute):
    """{labels: [(minute, value), ...]} of a range selector or a subquery."""
    first = max(0, minute - int(node.range / timedelta(minutes=1)))
    found = {}
    if isinstance(node, pq.MatrixSelector):
        for labels, values in data.chosen(node.vector_selector):
            taken = [(at, v) for at, v in enumerate(values[: minute + 1]) if at >= first]
            found[labels] = [(at, v) for at, v in taken if v is not None and v is not STALE]
    else:
        assert node.step == timedelta(minutes=1)
        for at in range(first, minute + 1):
            for labels, number in value(node.expr, data, at).items():
                found.setdefault(labels, []).append((at, number))
    return {labels: points for labels, points in found.items() if points}


def called(name, series):
    if name == "max_over_time":
        return {labels: max(v for _, v in points) for labels, points in series.items()}
    enough = {labels: points for labels, points in series.items() if len(points) > 1}
    return {labels: {"rate": rate, "deriv": slope}[name](points) for labels, points in enough.items()}


def rate(points):
    grown = sum(b - a if b >= a else b for (_, a), (_, b) in pairwise(points))
    return grown / ((points[-1][0] - points[0][0]) * MINUTE)


def slope(points):
    middle, mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((at - middle) ** 2 for at, _ in points)
    return sum((at - middle) * (v - mean) for at, v in points) / spread / MINUTE


def combined(op, left, right):
    if op in ("and", "unless"):
        return {labels: number for labels, number in left.items() if (labels in right) == (op == "and")}
    pairs = {
        labels: (number, right.get(labels) if isinstance(right, dict) else right)
        for labels, number in left.items()
    }
    both = {labels: pair for labels, pair in pairs.items() if pair[1] is not None}
    if op in COMPARISONS:
        return {labels: pair[0] for labels, pair in both.items() if COMPARISONS[op](*pair)}
    return {labels: ARITHMETIC[op](*pair) for labels, pair in both.items()}


def firing(rule, series, minute):
    """The label sets for which the rule fires at this minute, if it is evaluated every minute."""
    data, node = Database(series), pq.parse(rule["expr"])
    held = int(pq.parse_duration(rule["for"]) / timedelta(minutes=1))
    if minute < held:
        return []
    each = [set(value(node, data, at)) for at in range(minute - held, minute + 1)]
    return [dict(labels) for labels in sorted(set.intersection(*each), key=sorted)]
