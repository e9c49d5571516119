"""Times the loss kernels: `python kernels/bench.py --help`; the same as `python -m distilfast.bench losses`.

`python kernels/bench.py --markdown FILE.json` prints the figures of a run as a Markdown table instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def markdown(path: str) -> str:
    """A table of the JSON that the bench wrote."""
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['dtype']}, median of value and gradient:",
        "",
        "| loss | rows | vocabulary | | ms (least-most) | ours is | share of the floor's speed | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        for loss in ("logits", "linear", "cosine", "mse"):
            results = case.get(loss, {})
            for name, figures in results.items():
                shape = f"{case['rows']} | {case['vocabulary']}"
                if "error" in figures:
                    lines.append(f"| {loss} | {shape} | {name} | {figures['error']} | | | |")
                    continue
                ours = results["distilfast"].get("median_ms", float("nan"))
                ratio = figures["median_ms"] / ours
                share = f"{100 * figures['share_of_floor_speed']:.0f} %" if "share_of_floor_speed" in figures else ""
                peak = f"{figures['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in figures else ""
                taken = f"{figures['median_ms']:.3f} ({figures['least_ms']:.3f}-{figures['most_ms']:.3f})"
                lines.append(f"| {loss} | {shape} | {name} | {taken} | {ratio:.2f}x | {share} | {peak} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--markdown":
        print(markdown(sys.argv[2]), end="")
        return
    from distilfast.bench import losses

    losses.main()


if __name__ == "__main__":
    main()
