"""Many draws, as `test.py eval.samples=10000 eval.draws=5` takes them: each distinct sample is predicted once."""
import json
from collections import Counter

from runs import CONFIG, in_process

from util.evaluation.predict import Predictor
from util.results import final


def test_fifty_thousand_episodes_predict_each_distinct_sample_once(finished_run, tmp_path, monkeypatch):
    predicted, call = Counter(), Predictor.__call__

    def counted(self, batch):
        predicted.update(batch.samples)
        return call(self, batch)

    monkeypatch.setattr(Predictor, "__call__", counted)
    monkeypatch.setattr(final, "_draw_extremes", lambda *_: None)  # which predicts a few again, to draw them
    done = in_process("test.py", "--config", CONFIG, *finished_run[1], f"exp={tmp_path}", "eval.protocol=episodic",
                      "eval.samples=10000", "eval.draws=5", f"weights={finished_run[0]}/checkpoints/best.pt")
    assert done.returncode == 0, done.stderr
    assert set(predicted.values()) == {1} and 10 < len(predicted) < 100
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    assert results["samples"] == 10000 and len(results["draws"]) == 5 and "10000 samples" in done.stdout
