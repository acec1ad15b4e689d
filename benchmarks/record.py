"""What every benchmark does with its figures: shows a table, writes a file, prints one line of JSON."""

import argparse
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from whale.eval.results import Figure, Need
from whale.publish import write_json
from whale.runtime import environment


def parser(about: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks share."""
    flags = argparse.ArgumentParser(description=about)
    flags.add_argument("--quick", action="store_true", help="under 50 seconds on two cores: fewer repeats")
    flags.add_argument("--out", type=Path, help="file to write; default results/<date>_<machine>_<commit>_<name>.json")
    return flags


def ratio(name: str, over: list[float], under: list[float], need: Need | None) -> Figure:
    """Median of `over` by median of `under`, measured in turn; low and high are the least and greatest of the pairs."""
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    return Figure(name, median(over) / median(under), min(pairs), max(pairs), "ratio", len(pairs), need)


def publish(name: str, figures: list[Figure], details: dict[str, Any], out: Path | None) -> None:
    """Show, write and print figures; `details` say what was measured."""
    machine = environment()
    for figure in figures:
        bound = "" if figure.need is None else f"  need {figure.need}: {'holds' if figure.holds else 'DOES NOT HOLD'}"
        print(f"{figure.name:<28} {figure.value:8.3f}  ({figure.low:.3f} to {figure.high:.3f}, n {figure.n}){bound}")
    if out is None:
        processor = re.sub(r"\W+", "-", machine["processor"]).strip("-").lower()
        stamp = f"{datetime.now(timezone.utc):%Y-%m-%d}_{processor}_{machine['commit']}_{name}"
        out = Path(__file__).parent / "results" / f"{stamp}.json"
    records = [figure.record() for figure in figures]
    write_json(out, {"benchmark": name, "figures": records, "details": details, "environment": machine})
    print(json.dumps({"figures": records}))
