import io
from pathlib import Path

from lrexp.report.row import final_table
from tests.report.made_up import RESULT, put


def printed(folder: str = "outputs/docmatch-embedded/lora-5bec5bec5b", **changes: object) -> list[str]:
    out = io.StringIO()
    final_table(put(RESULT, {key.replace("__", "."): value for key, value in changes.items()}), Path(folder), out)
    return out.getvalue().splitlines()


def test_the_table_of_a_finished_run() -> None:
    assert printed() == [
        "docmatch-embedded, lora, seed 1: finished",
        "accuracy (test)       0.7340 ± 0.0121 (standard error)",
        "trainable parameters  41.2 k (2.08 % of 1.98 M)",
        "peak memory           412 MB",
        "preparation           810 ms, peak 300 MB",
        "training              38.2 s, 23.1 ms a step, 5,120 tokens/s",
        "other metrics         f1 0.7200",
        "run                   outputs/docmatch-embedded/lora-5bec5bec5b",
    ]


def test_it_is_plain_and_80_columns_wide_but_for_the_path() -> None:
    many = {f"metric_{number}": 0.5 for number in range(20)}
    folder = "/long/" + "folder/" * 20
    lines = printed(folder, metrics={"accuracy": 0.7, **many}, marks=["a mark " * 30])
    assert "\x1b" not in "".join(lines)
    assert lines[-1] == f"run                   {Path(folder)}"
    assert all(len(line) <= 80 for line in lines[:-1])


def test_an_experiment_names_its_model_and_dataset_too() -> None:
    assert printed(name="roberta_mrpc", model="roberta", dataset="mrpc")[0] == "roberta_mrpc, lora, seed 1: finished"
    assert printed(name="table_2")[0] == "table_2, docmatch, embedded, lora, seed 1: finished"


def test_what_is_unknown_is_left_out_and_what_happened_is_said() -> None:
    text = "\n".join(
        printed(
            metrics={"pearson": None},
            primary_metric="pearson",
            costs__step_seconds=None,
            costs__tokens_per_second=None,
            costs__resumed_from=[50, 100],
            costs__peak_memory_reserved_bytes=500_000_000,
            marks=["selected on test"],
        )
    )
    assert "pearson (test)        undefined\n" in text
    assert "training              38.2 s, resumed at step 50, 100\n" in text
    assert "412 MB, 500 MB reserved\n" in text and "other metrics" not in text
    assert "marks                 selected on test\n" in text


def test_a_failed_run_says_where_and_why() -> None:
    unreached = {name: None for name in RESULT["costs"]} | {"resumed_from": []}
    failed = {"status": "failed", "metrics": {}, "costs": unreached}
    lines = printed(**failed, failed_at_step=None, error="out of memory before the first step\nTry less.")
    assert lines[0].endswith("seed 1: failed") and len(lines) == 3
    assert "error  out of memory before the first step" in lines
    assert "error  at step 7: NaN" in printed(**failed, failed_at_step=7, error="NaN")


def test_the_planned_peak_stands_beside_the_measured_one() -> None:
    assert "peak memory           412 MB, 117 MB of tensors planned" in printed(costs__planned_peak_bytes=117_000_000)
