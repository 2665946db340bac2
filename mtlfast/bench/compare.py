"""What changed since an earlier run: bench.json against bench.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlfast.bench.session import FORMAT
from mtlfast.bench.table import duration, who

__all__ = ["changes", "load"]

Content = Mapping[str, Any]
KEY = ("case", "who", "level", "passes")
SETTINGS = ("keep_pages", "environment")
SAME = ("device", "processor", "gpu", "threads", "torch", "python", "mtlfast")


def load(path: Path) -> Content:
    """Returns an earlier run.

    Raises:
        ValueError: where the file is missing or isn't one of ours.
    """
    wanted = "--compare must name a bench.json that mtlfast bench wrote"
    if not path.is_file():  # a pipe would wait for its other end
        found = "which is no file" if os.path.lexists(path) else "which does not exist"
    else:
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            found = f"which cannot be read ({error.strerror})"
        except (ValueError, RecursionError):
            found = "which is not JSON"
        else:
            if isinstance(content, dict) and content.get("format") == FORMAT:
                if _is_whole(content):
                    return content
                found = "which is incomplete"
            else:
                found = "which is something else"
    raise ValueError(f"{wanted}; got {path}, {found}; mtlfast bench --output DIR writes one.")


def _is_whole(content: Content) -> bool:
    """Whether a file has all that ``changes`` looks at."""
    machine, settings, runs = (content.get(name) for name in ("machine", "settings", "runs"))
    return (
        isinstance(machine, dict)
        and isinstance(settings, dict)
        and settings.keys() >= set(SETTINGS)
        and isinstance(runs, list)
        and all(
            isinstance(run, dict)
            and all(isinstance(run.get(name), str) for name in KEY)
            and all(isinstance(run.get(name), int | float) for name in ("median", "iqr", "busy"))
            and run["median"] > 0
            for run in runs
        )
    )


def changes(old: Content, new: Content) -> list[str]:
    """Returns a line for each run that both have, and what else differs.

    A change is marked where the medians lie farther apart than both interquartile ranges.
    """
    lines = [
        f"Not the same {name}: {old['machine'].get(name)} then, {new['machine'].get(name)} now."
        for name in SAME
        if old["machine"].get(name) != new["machine"].get(name)
    ]
    lines += [
        f"Not the same {name}: {old['settings'][name]} then, {new['settings'][name]} now."
        for name in SETTINGS
        if old["settings"][name] != new["settings"][name]
    ]
    before = {_key(run): run for run in old["runs"]}
    after = {_key(run): run for run in new["runs"]}
    common = [key for key in after if key in before]
    rows, marked = [], 0
    for key in common:
        then, now = before[key], after[key]
        apart = abs(now["median"] - then["median"]) > max(now["iqr"], then["iqr"])
        marked += apart
        share = now["median"] / then["median"] - 1
        mark = ("  slower" if share > 0 else "  faster") if apart else ""
        busy = "  (busy)" if then["busy"] or now["busy"] else ""
        rows.append(
            f"{duration(then['median'], then['iqr']):>18} -> "
            f"{duration(now['median'], now['iqr']):>18} {share:>+7.1%}{mark:<8}{busy:<8}  "
            f"{now['case']}, {now['passes']}, {who(now)}"
        )
    lines += [row.rstrip() for row in rows]
    lines.append(
        f"{len(common)} runs compared, {marked} changed by more than their interquartile ranges; "
        f"{len(before) - len(common)} only in the old file, {len(after) - len(common)} only now."
    )
    return lines


def _key(run: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(run[name] for name in KEY)
