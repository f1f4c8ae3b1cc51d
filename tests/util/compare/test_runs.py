"""results.json files that cannot be: each is refused in one line that names the file."""
import json
import os

import pytest

from util.compare import runs
from util.compare.runs import read
from util.runtime.errors import UserError


def refused(file, *expected) -> None:
    with pytest.raises(UserError) as caught:
        read(file)
    text = str(caught.value)
    assert str(file) in text and "\n" not in text and len(text) < len(str(file)) + 300, text
    for part in expected:
        assert part in text, f"{part!r} is not in {text}"


def changed(made, key: str, value) -> os.PathLike:
    """A results.json in which the value under a dotted key is another."""
    file = made("esda", 0, 40) / "results.json"
    results = json.loads(file.read_text())
    *way, last = key.split(".")
    inner = results
    for part in way:
        inner = inner[part]
    inner[last] = value
    file.write_text(json.dumps(results))
    return file


@pytest.mark.parametrize("value", [250, -3, float("nan"), float("inf"), None, "40", True, [40], {"a": 1}])
@pytest.mark.parametrize("key", ["miou", "fb_iou", "per_class.low 0", "selections.last.miou", "pixel_accuracy"])
def test_scores_are_percentages(key, value, made):
    refused(changed(made, key, value), f"{key}=", "should be a percentage, 0 to 100")


@pytest.mark.parametrize("key, value, message", [
    ("dataset", 3, "dataset='3' should be a name"), ("dataset", "../elsewhere", "should be a name"),
    ("arch", "", "should be a name"), ("protocol", "a\nb", "should be a name"), ("fold", "0", "whole number"),
    ("fold", 1.0, "whole number"), ("fold", True, "whole number"), ("fold", -1, "whole number"),
    ("fold", 4, "fold=4 of folds=4 cannot be"), ("folds", 10**9, "folds=1000000000 cannot be"),
    ("samples", "many", "whole number"), ("samples", 2**63, "whole number"), ("checkpoint", ["x"], "should be text"),
    ("machine", "\ud800", "should be text"), ("parameters", 7, "parameters='7' should be a mapping"),
    ("parameters.total", "5M", "whole number"), ("gflops_per_image", -1, "a number from 0"),
    ("training_seconds", "long", "a number from 0"), ("training_seconds", 1e300, "a number from 0"),
    ("class_ids", ["low 0"], "should be a mapping"), ("class_ids.low 0", 2, "gives two classes one number"),
    ("class_ids.a\nb", 9, "printable names"), ("per_class", None, "should be a mapping"),
    ("name_auc", 1.5, "0 to 1"), ("not_zero_shot", True, "should be text"), ("draws", 5, "should be a list"),
    ("config", [], "config='[]' should be a mapping"), ("config.seed", None, "whole number"),
    ("config.train.select", 3, "should be text"), ("selections", [1], "should be a mapping"),
    ("selections.last", 3, "should be a mapping"), ("trained_on", "seen", "should be a mapping"),
    ("trained_on.seed", "1", "whole number"), ("pictures", {"a": "cat"}, "should be a mapping"),
    ("pictures", {"a": {"class_id": 1, "iou": 101}}, "0 to 100"), ("changed_options", "x", "should be a mapping")])
def test_values_of_another_type_or_size(key, value, message, made):
    refused(changed(made, key, value), message)


@pytest.mark.parametrize("key", ["gflops_per_image", "parameters", "selections", "trained_on", "class_ids", "folds"])
def test_results_of_an_older_version(key, made):
    refused(made("esda", 0, 40, **{key: None}) / "results.json", f"lacks {key}")


@pytest.mark.parametrize("data, message", [
    (b"", "not valid JSON"), (b"{", "not valid JSON"), (b'{"miou": 4', "not valid JSON"),
    ('{"arch": "caf\u00e9"}'.encode("latin-1"), "not valid JSON"), (b"[1, 2]", "its list should be a mapping"),
    (b"3", "its int should be a mapping"), (b"null", "its NoneType should be a mapping"),
    (b"[" * 100_000, "nested too deeply"), (b'{"a":' * 5000 + b"1" + b"}" * 5000, ""),
    (b'{"miou": ' + b"9" * 5000 + b"}", "not valid JSON")])
def test_files_that_hold_something_else(data, message, tmp_path):
    file = tmp_path / "results.json"
    file.write_bytes(data)
    refused(file, message)


def test_values_nested_deeply(made):
    """Whatever depth JSON's reader, or what walks through the values, takes in this Python."""
    file = made("esda", 0, 40) / "results.json"
    text = file.read_text()
    for depth in (800, 900, 950, 980, 5000):
        nested = '{"a": ' * depth + "0" + "}" * depth
        file.write_text(text.replace('"branch_rank": 2', f'"branch_rank": {nested}'))
        try:
            read(file)
        except UserError as error:
            assert "nested too deeply" in str(error)
        else:
            assert depth < 5000
        file.write_text(text.replace('"miou": 40', f'"miou": {nested}', 1))
        refused(file)


def test_files_that_are_none_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "results.json").mkdir()
    refused(tmp_path / "results.json", "no such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no such file")
    (tmp_path / "large").write_text("{}" + " " * 200)
    monkeypatch.setattr(runs, "MOST_BYTES", 100)
    refused(tmp_path / "large", "more than")


def test_null_where_a_fold_has_no_absent_class(made):
    file = changed(made, "absent_name_miou", None)
    assert read(file).miou == 40
