"""python -m docs.tables: pages hold the tables of their CSV, and runs enter it once."""
import json
import shutil

import pandas as pd
import pytest

from docs import tables


def test_the_pages_hold_the_tables_of_their_csv(tmp_path, monkeypatch):
    pages = ["emoji.md", "peers.md"]
    for name in (*pages, "emoji.csv", "costs.csv"):
        shutil.copy(tables.DOCS / name, tmp_path)
    before = [(tmp_path / page).read_text() for page in pages]
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables"])
    tables.main()
    changed = [page for page, text in zip(pages, before) if (tmp_path / page).read_text() != text]
    assert not changed
    assert (tmp_path / "emoji.png").stat().st_size > 1e4 and (tmp_path / "peers.png").stat().st_size > 1e4


def test_runs_become_rows_and_differences_are_paired_by_fold_and_seed(tmp_path):
    def write(dataset, arch, fold, seed, miou, refine=0):
        folder = tmp_path / dataset / arch / f"fold{fold}" / f"S{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({
            "dataset": dataset, "arch": arch, "fold": fold, "miou": miou, "samples": 9, "gflops_per_image": 2.0,
            "config": {"seed": 321, "eval": {"refine": refine}}, "trained_on": {"seed": seed},
            "parameters": {"trainable": 5}, "by_size": [{"miou": 1.0}, {"miou": 2.0}]}))

    for fold, seed, ours, theirs in ((0, 321, 50, 40), (0, 322, 52, 40), (1, 321, 40, 36)):
        write("emoji", "plus", fold, seed, ours)
        write("emoji", "esda", fold, seed, theirs)
    write("emoji", "esda", 2, 321, 99)                              # without a partner
    write("emoji-openmoji", "plus-refine", 0, 322, 7, refine=10)
    write("pseudo", "plus", 0, 321, 1)
    runs = tables.collect(tmp_path)
    assert len(runs) == 8 and set(runs["kind"]) == {"plus", "esda"} and set(runs["quarters"]) == {"1.0 2.0"}
    other = tables.by_fold(runs, "emoji", "plus", "other artist", 10)
    assert other["miou"].to_dict() == {0: 7}
    assert tables.cell(tables.by_fold(runs, "emoji", "plus")["miou"], spread=True) == "45.5 ± 7.8"  # of 51 and 40
    found = tables.against(runs, "emoji", "esda")                   # -10, -12, -4: mean -8.7, t(2) 4.303, s 4.163
    assert found == "-8.7 [-19.0, +1.7]" and tables.against(runs, "emoji", "plus") == ""
    assert pd.isna(runs["seen_miou"]).all() and runs["seed"].max() == pytest.approx(322)
    shutil.copy(tables.DOCS / "emoji.csv", tmp_path)
    tables.enter(tmp_path / "emoji.csv", tmp_path)
    rows = tables.runs_of(pd.read_csv(tmp_path / "emoji.csv"), "emoji", "plus")["miou"]
    assert rows.loc[0, 321] == 50 and rows.loc[0, 322] == 52 and rows.index.is_unique       # the older row has gone
