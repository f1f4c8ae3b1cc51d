"""Names that are told to be wrong before anything long begins."""
import pytest

from util.predict.names import checked_names, listed, unfamiliar
from util.runtime.errors import UserError


@pytest.mark.parametrize("names, others, said", [
    ([], [], "no names"), (["star", ""], [], "name 2 is ''"), (["  "], [], "name 1"), (["star"], [""], "--others 1"),
    (["star", "key", "Star "], [], "name 3, 'Star ', is the same as name 1"), (["star"], ["STAR"], "same as name 1"),
    (["traffic  light", "traffic light"], [], "same as name 1"), ([str(k) for k in range(255)], [], "at most 254"),
    ([str(k) for k in range(200)], [f"o{k}" for k in range(55)], "255 names"), (["a\x00b"], [], "control"),
    (["a\udcffb"], [], "UTF-8"), (["\u200b"], [], "name 1"), ([3], [], "name 1 is 3"), (["ﬁsh", "fish"], [], "same")])
def test_one_line_for_each_mistake(names, others, said):
    with pytest.raises(UserError) as caught:
        checked_names(names, others)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_any_script_and_number():
    names = ["star", " traffic  light ", "星", "звезда", "نجمة", "🙂", "étoile", "50 % off!", "می‌روم"]
    assert checked_names(names)[0][1] == "traffic light" and len(checked_names(names)[0]) == len(names)
    assert checked_names("traffic light", "sky") == (["traffic light"], ["sky"]), "a text is one name"
    assert len(checked_names([str(k) for k in range(200)])[0]) == 200
    assert unfamiliar(names) == ["星", "звезда", "نجمة", "می‌روم"]


def test_a_line_of_names_stays_short():
    assert listed(["a", "b"]) == "a, b" and listed([]) == ""
    assert listed([*"abcdefghij"]) == "a, b, c, d, e, f, g, h and 2 more"
    assert listed(["x" * 400]) == "x" * 60 + "..."
