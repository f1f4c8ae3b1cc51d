"""Shapes-5i: scenes are pure functions of their number, masks say what is painted, and the shipped CLIP knows words."""
import cv2
import numpy as np
import pytest

from data.shapes import make, pretrain
from data.shapes.caption import caption
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import NAMES, silhouette
from model.clip_weights import build_clip, read_clip
from util import config
from util.files import read_list
from util.folds import Classes

CLASSES = Classes.read(config.ROOT / "lists/shapes/classes.yaml").names
IDS = range(1, 21)


def test_every_class_has_a_silhouette_of_its_own():
    assert sorted(CLASSES) == sorted(NAMES) and len(CLASSES) == 20
    drawn = [silhouette(name) > 127 for name in CLASSES]
    for i, a in enumerate(drawn):
        assert 0.15 < a.mean() < 0.85, CLASSES[i]
        for b in drawn[:i]:
            assert (a & b).sum() / (a | b).sum() < 0.93


def test_a_scene_is_a_pure_function_of_its_number():
    first = scene(CLASSES, IDS, 5, 17)
    scene(CLASSES, IDS, 5, 18)
    again = scene(CLASSES, IDS, 5, 17)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2] == again[2]
    assert not np.array_equal(first[0], scene(CLASSES, IDS, 6, 17)[0])


def test_masks_hold_the_things_of_the_scene_with_ignored_borders():
    several = 0
    for i in range(50):
        image, mask, things = scene(CLASSES, IDS, 1, i)
        assert image.shape == (128, 128, 3) and image.dtype == mask.dtype == np.uint8
        names = [thing.name for thing in things]
        assert len(set(names)) == len(names)
        assert set(np.unique(mask)) - {0, 255} <= {CLASSES.index(n) + 1 for n in names}
        assert (mask == 255).any()
        for thing in things:
            assert thing.visible == np.count_nonzero(mask == CLASSES.index(thing.name) + 1)
        several += len(things) >= 3
    assert several >= 40


def test_no_class_touches_another_without_an_ignored_border():
    _, mask, _ = scene(CLASSES, IDS, 1, 3)
    solid = (mask != 0) & (mask != 255)
    across = solid[:, 1:] & solid[:, :-1] & (mask[:, 1:] != mask[:, :-1])
    assert across.mean() < 0.001  # a border is drawn with the object in front


def test_captions_name_every_object():
    rng = np.random.default_rng(0)
    for i in range(30):
        _, _, things = scene(CLASSES, IDS, 2, i)
        text = caption(things, 50, rng)
        assert all(thing.name in text.replace(",", "").split() for thing in things)


def test_the_set_has_pascals_layout_and_is_made_once(tmp_path, capsys):
    options = [f"root={tmp_path / 'set'}", "train=6", "val=3", "side=64", "diameter=[20, 32]"]
    cfg = config.load(make.ShapesData, make.CONFIG, options, base=None)
    assert make.make(cfg)
    pairs = read_list(tmp_path / "set/lists/train.txt")
    assert len(pairs) == 6 and pairs[0] == ("JPEGImages/train_000000.jpg", "SegmentationClassAug/train_000000.png")
    mask = cv2.imread(str(tmp_path / "set" / pairs[0][1]), cv2.IMREAD_UNCHANGED)
    assert mask.ndim == 2 and mask.shape == (64, 64)
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert not make.make(cfg)
    assert all(p.stat().st_mtime_ns == when for p, (when, _) in files.items())
    (tmp_path / "set/made_with.json").unlink()  # as if it had been stopped half-way
    assert make.make(cfg)
    assert all(p.read_bytes() == data for p, (_, data) in files.items())


def test_the_shipped_clip_knows_its_words():
    cfg = config.load(pretrain.Pretrain, pretrain.CONFIG, base=None)
    clip = build_clip(read_clip(config.ROOT / cfg.out)).eval()
    top1 = pretrain.accuracy(clip, CLASSES, cfg.cycles[-1].stages[-1].style(single=True), count=500)
    assert top1 >= 0.95


def test_pretraining_runs_and_its_file_loads(tmp_path):
    stage = "{side: %d, samples: 16, keep: 0.5, single_share: 0.5, single_diameter: [20, 30], objects: [2, 3], diameter: [14, 20]}"
    cfg = config.load(pretrain.Pretrain, pretrain.CONFIG, [
        f"out={tmp_path}/clip.pt", f"cycles=[{{seed: 1, muon_lr: 0.005, warmup: 0.1, decay: 0.5, stages: [{stage % 32}, {stage % 48}]}}]", "batch_size=8", "vision_width=64",
        "vision_layers=2", "text_layers=1", "workers=0", "threads=1"], base=None)
    pretrain.save(pretrain.train(cfg, CLASSES), cfg.out)
    clip = build_clip(read_clip(cfg.out))
    assert clip.visual.side == 48  # the last stage's, position embedding resized on the way
    assert 0 <= pretrain.accuracy(clip, CLASSES, Style(side=48, objects=(1, 1), diameter=(20, 30)), 20) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_style_bounds_the_number_of_objects(count):
    assert all(len(scene(CLASSES, IDS, 0, i, Style(objects=(1, count)))[2]) <= count for i in range(20))
