"""Results as a table: ours and the rivals', op and public call side by side, goals and found."""

from collections import Counter

from timing_runs import Run
from timing_tools import QUIET

COLUMNS = (
    ("case", "<"),
    ("passes", "<"),
    ("who", "<"),
    ("call us", ">"),
    ("IQR", ">"),
    ("op us", ">"),
    ("IQR", ">"),
    ("ns/el call", ">"),
    ("op", ">"),
    ("GB/s call", ">"),
    ("op", ">"),
    ("of copy call", ">"),
    ("op", ">"),
    ("x ours", ">"),
    ("peak MB", ">"),
    ("error", ">"),
    ("goal: found", "<"),
)
LEGEND = (
    "call: public function; op: the backend's ops alone, on prepared arguments. IQR: interquartile "
    "range, us.",
    "GB/s and share of copy: of the bytes that must move (b_x + b_t forward, 3 b_x + 2 b_t with "
    "backward), for all alike.",
    "x ours: median over ours, call over call. peak MB: most memory held at once beyond the "
    "inputs. error: the larger of value's and gradient's against float64, relative.",
    "where, index: eager PyTorch; compile: torch.compile of where, default mode; F.bce: torch's, "
    "without missing labels; reference: our specification in plain PyTorch; eager: torch's "
    "functions; pml: pytorch-metric-learning.",
    f"* measured while other processes kept more than {QUIET} cores busy: not to be relied on.",
)
BACKWARD = "forward+backward"


def _number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _verdict(goal, found, met, *timed):
    """Returns what was asked and what was found; times taken under load decide nothing."""
    if any(result["load"] > QUIET for result in timed):
        return f"{goal}: {found} busy"
    return f"{goal}: {found} {'ok' if met else 'SHORT'}"


def _ratio(results, case, run, ours):
    """Times slower than ours on the same level and passes; None for ours."""
    if run.who == "mtlfast" or (case, ours) not in results:
        return None
    return results[case, run]["median"] / results[case, ours]["median"]


def _our_goals(case, goals, call, op):
    """Verdicts on our own row."""
    verdicts = []
    for name, result in (("op", op), ("call", call)):
        if name in goals and result:
            share, found = goals[name], result["copy_share"]
            verdicts.append(_verdict(f"{name} {share:.0%}", f"{found:.0%}", found >= share, result))
    if "us" in goals and call:
        found = call["median"] * 1e6
        verdicts.append(_verdict(f"{goals['us']} us", f"{found:.1f}", found <= goals["us"], call))
    if "seconds" in goals and call:
        found = call["median"]
        wanted = goals["seconds"]
        verdicts.append(_verdict(f"{wanted} s", f"{found:.2f}", found <= wanted, call))
    if call:
        found, allowed = call["peak_extra_bytes"], case.peak_allowed()
        verdicts.append(_verdict("memory", f"{found / 1e6:.3g} MB", found <= allowed))
    return verdicts


def _cells(results, pick):
    """Returns one cell per result, empty where there is none."""
    return ["" if result is None else pick(result) for result in results]


def row(results, case, run, goals):
    """Returns the cells of one row; for ours the call and the op stand in it together."""
    call = results.get((case, run))
    op = results.get((case, Run(run.who, "op", run.passes))) if run.level == "call" else None
    ours = Run("mtlfast", run.level, run.passes)
    ratio = _ratio(results, case, run, ours)
    goal = []
    if run.passes == BACKWARD:
        if run.who == "mtlfast" and run.level == "call":
            goal = _our_goals(case, goals, call, op)
        elif ratio is not None and run.who in goals:
            wanted = goals[run.who]
            timed = call, results[case, ours]
            goal = [_verdict(f"{wanted:g}x", f"{ratio:.2f}", ratio >= wanted, *timed)]
    both = (call, op)
    busy = any(result and result["load"] > QUIET for result in both)
    errors = [r.get(f"error_{n}", 0.0) for r in both if r for n in ("value", "gradient")]
    peaks = [r["peak_extra_bytes"] for r in both if r and "peak_extra_bytes" in r]
    return [
        case.name,
        run.passes + ("*" if busy else ""),
        run.who + (", graph" if run.level == "graph" else ""),
        *(_number(r[key] * 1e6) if r else "" for r in both for key in ("median", "iqr")),
        *_cells(both, lambda r: f"{r['ns_per_element']:.3g}"),
        *_cells(both, lambda r: f"{r['gb_per_s']:.3g}"),
        *_cells(both, lambda r: f"{r['copy_share']:.0%}"),
        "" if ratio is None else f"{ratio:.2f}",
        f"{max(peaks) / 1e6:.3g}" if peaks else "",
        f"{max(errors):.0e}" if any(errors) else "",
        "; ".join(goal),
    ]


def rows(results, device):
    """Returns the table's rows, in the order of the cases."""
    table, seen = [], set()
    for case, run in results:
        if run.level == "op":  # joins the row of its call, or stands alone where that failed
            run = Run(run.who, "call", run.passes)
        if (case.name, run) not in seen:
            seen.add((case.name, run))
            table.append(row(results, case, run, case.goals_on(device)))
    return sorted(table, key=_order([r[0] for r in table]))


def _order(names):
    """Sorts a case's rows by passes; rivals stay in their order below ours."""
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return lambda row: (place[row[0]], row[1].startswith(BACKWARD))


def short(rows):
    """Returns one line per goal that was not reached, and one that counts them."""
    goals = [(row, goal) for row in rows for goal in row[-1].split("; ") if goal]
    ends = Counter(goal.split()[-1] for _, goal in goals)
    missed = [f"{r[0]}, {r[2]}: {goal}" for r, goal in goals if goal.endswith("SHORT")]
    busy = f", {ends['busy']} not judged for load" if ends["busy"] else ""
    return [f"{ends['ok']} of {len(goals)} goals reached{busy}.", *missed]


def plain(rows):
    """Returns the table as aligned lines; the case stands where it changes."""
    heads = [name for name, _ in COLUMNS]
    widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(COLUMNS))]

    def line(cells):
        cells = zip(cells, COLUMNS, widths, strict=True)
        return "  ".join(f"{cell:{side}{width}}" for cell, (_, side), width in cells).rstrip()

    lines, last = [line(heads)], None
    for cells in rows:
        group = cells[0], cells[1].rstrip("*")
        if group != last:
            lines.append("")
        lines.append(line(cells))
        last = group
    return lines


def markdown(rows, notes):
    """Returns the table and its notes as Markdown."""
    lines = ["# mtlfast against the rest", "", *(f"* {note}" for note in notes), ""]
    lines.append("| " + " | ".join(name for name, _ in COLUMNS) + " |")
    lines.append("|" + "|".join("---" if side == "<" else "--:" for _, side in COLUMNS) + "|")
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]
