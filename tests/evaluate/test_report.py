"""The report's tables say what the JSON says; its pictures are drawn and are not blank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distilfast.evaluate.pictures import draw_losses, draw_pictures, picture_notes
from distilfast.evaluate.published import ABLATION, MODELS, TASKS, published_kept
from distilfast.evaluate.report import markdown

ROWS = {"teacher": 80.0, "student": 76.0, "student (D)": 78.0}


def example() -> dict[str, Any]:
    def model(parameters: int, latency: float) -> dict[str, Any]:
        speed = {
            "device": "cpu",
            "length": 128,
            "latency_ms": latency,
            "latency_iqr_ms": 0.01 * latency,
            "throughput": 1000 / latency,
            "throughput_spread": 0.02,
            "repeats": 30,
            "taken_again": False,
            "load": 0.1,
        }
        return {
            "encoder_parameters": parameters,
            "embeddings": parameters // 4,
            "layers": parameters - parameters // 4,
            "head": 0,
            "parameters": parameters,
            "bytes": 4 * parameters,
            "speed": {"cpu": speed},
        }

    def task(title: str, glue: bool) -> dict[str, Any]:
        rows = {
            name: {
                "median": score,
                "low": score - 1,
                "high": score + 1,
                "seeds": {"0": score - 1, "1": score, "2": score + 1},
                "kept": score / 80,
                "losses": [(10 * i, 1 / (1 + i) + 0.01 * (80 - score)) for i in range(8)],
            }
            for name, score in ROWS.items()
        }
        settings = {"epochs": 3.0, "batch_size": 32, "learning_rate": [2e-5], "max_length": 128}
        return {
            "title": title,
            "glue": glue,
            "metrics": ["accuracy"],
            "rows": rows,
            "train_rows": 1000,
            "dev_rows": {"dev": 100},
            "notes": [],
            "settings": settings,
        }

    means = {name: {"score": score, "kept": score / 80} for name, score in ROWS.items()}
    held_out = {
        "mlm_loss": 2.0,
        "perplexity": 7.39,
        "mlm_accuracy": 0.5,
        "agreement": 1.0,
        "kl": 0.0,
        "agreement_all": 1.0,
        "kl_all": 0.0,
        "masked": 100,
        "tokens": 700,
    }
    return {
        "versions": {"distilfast": "0"},
        "hardware": {"cpu": "a processor"},
        "teacher": "teacher",
        "models": {"teacher": model(110_000_000, 50.0), "student": model(66_000_000, 25.0)},
        "held_out": {"news": {"rows": 10, "models": {"teacher": held_out, "student": {**held_out, "kl": 0.25}}}},
        "tasks": {
            "sst2": task("SST-2", True),
            "rte": task("RTE", True),
            "wnli": task("WNLI", True),
            "imdb": task("IMDb", False),
        },
        "macro": {
            "with_wnli": {"over": ["sst2", "rte", "wnli"], "rows": means},
            "without_wnli": {"over": ["sst2", "rte"], "rows": means},
        },
        "missing": [],
    }


def test_the_report_says_what_the_json_says() -> None:
    text = markdown(example())
    for words in (
        "66,000,000",
        "60.0 %",
        "25.00 (0.25)",
        "40.0 (2 %)",
        "2.00 |",
        "76.0 (75.0 to 77.0)",
        "95.0 %",
        "97.5 %",
        "macro without WNLI",
        "0.250",
        "median of 3 seeds",
        "(D): distilled again",
        "a processor",
    ):
        assert words in text
    report = example()
    del report["held_out"], report["tasks"]["wnli"]
    report["macro"]["with_wnli"]["over"] = ["sst2", "rte"]
    report["tasks"]["rte"]["rows"].pop("student")
    report["missing"] = ["student on rte, seed 1, learning rate 2e-05"]
    text = markdown(report)
    assert "Held-out" not in text
    assert "| macro without WNLI |" in text.replace("  ", " ")
    assert "Not finished: 1 cells, the first student on rte" in text


def test_pictures_are_drawn(tmp_path: Path) -> None:
    drawn = draw_pictures(example(), tmp_path)
    assert drawn == ["kept.png", "quality.png", "losses.png"]
    for name in drawn:
        content = (tmp_path / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(content) > 20_000  # a blank page is smaller
    notes = picture_notes(drawn)
    assert notes.count("![") == 3
    assert "none of them measured here" in notes
    assert draw_losses({}, tmp_path / "none.png") == []
    assert not (tmp_path / "none.png").exists()
    without = example()
    del without["tasks"]
    assert draw_pictures(without, tmp_path) == []


def test_published_figures_agree_with_one_another() -> None:
    kept = {model.name: model.kept for model in MODELS}
    assert kept["BERT-base"] == 1.0
    assert kept["DistilBERT"] == pytest.approx(0.969, abs=5e-4)
    assert published_kept("imdb") == pytest.approx(0.993, abs=5e-4)
    assert published_kept("weather") is None
    glue = [task for task in TASKS if task not in ("imdb", "squad")]
    assert sum(TASKS[task][1] for task in glue) / len(glue) == pytest.approx(77.0, abs=0.05)
    assert min(ABLATION, key=lambda name: ABLATION[name]) == "random_init"
