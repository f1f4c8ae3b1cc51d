"""Shapes-5i: scenes are pure functions of their number, masks say what is painted, and the shipped CLIP knows words."""
import cv2
import numpy as np
import pytest
import torch

from data.files import read_list
from data.folds import Classes
from data.shapes import make
from data.shapes.pretrain import __main__ as pretrain
from data.shapes.pretrain import captioned, contrast
from data.shapes.pretrain.caption import caption
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import NAMES, silhouette
from model.clip.weights import build_clip, read_clip
from util import config
from util.runtime.errors import UserError

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
        text = caption(things, 50, (0.5, 0.3, 0.3), rng)
        assert all(thing.name in text.replace(",", "").split() for thing in things)


STAGE = captioned.Stage(side=128, samples=20, keep=1, mosaic=1, single_share=0.3, single_diameter=[36, 64],
                        objects=[3, 4], diameter=[44, 68])


def test_a_mosaic_tells_of_each_tile_what_its_own_caption_names():
    pairs = captioned.Captioned(STAGE, CLASSES, 3, 32, 8, [0, 0, 0])
    for i in range(20):
        pair = pairs[i]
        grid = pair.tile_of.view(16, 16)
        corners = [grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]]
        assert corners == [0, 1, 2, 3] and (pair.tile_of.bincount() >= 36).all()
        assert (pair.tiles > 0).sum(1).tolist() == [1] * 4, "one object a tile"
        assert torch.equal(pair.named > 0, pair.tiles.sum(0) > 0) and pair.named.sum() == pytest.approx(1)
        for t in range(4):  # what is drawn in a tile is the scene that its name was taken from
            rows, columns = (np.unique(k) * 8 for k in np.nonzero((grid == t).numpy()))
            height, width = len(rows) * 8, len(columns) * 8
            style = Style(max(height, width), (1, 1), tuple(f * min(height, width) for f in captioned.FILL))
            drawn, _, things = scene(CLASSES, IDS, 3 + 4000 + t, i, style)
            assert pair.tiles[t, CLASSES.index(things[0].name)] == 1
            top, left = (style.side - height) // 2, (style.side - width) // 2
            tile = pair.image[:, rows[0]:rows[0] + height, columns[0]:columns[0] + width].permute(1, 2, 0).numpy()
            assert np.array_equal(tile, drawn[top:top + height, left:left + width])


def test_the_tile_contrast_wants_patches_to_match_their_own_tiles_name():
    """Patches that point at their tile's name have less loss than those that point at another tile's."""
    names = torch.eye(4)
    tile_of = torch.arange(4).repeat_interleave(16)[None]
    pair = captioned.Pair(None, None, None, torch.eye(4)[None], tile_of)
    right, wrong = names[tile_of], names[(tile_of + 1) % 4]
    scale = torch.tensor(5.0)
    assert contrast.tile_contrast(scale, right, names, pair) < 0.1 < contrast.tile_contrast(scale, wrong, names, pair)
    assert contrast.tile_contrast(scale, names[tile_of.roll(1)], names, pair) < 0.1, "a tile's best patches decide"


def test_spread_is_least_for_names_far_apart():
    together, apart = torch.ones(4, 4) / 2, torch.eye(4)
    assert contrast.spread(together).item() == pytest.approx(0) and contrast.spread(apart).item() == pytest.approx(-4)


def test_the_set_has_pascals_layout_and_is_made_once(tmp_path, capsys):
    options = [f"root={tmp_path / 'set'}", "train=6", "val=3", "side=64", "diameter=[20, 32]"]
    cfg = config.load(make.ShapesData, make.CONFIG, options)
    assert make.make(cfg)
    pairs = read_list(tmp_path / "set/lists/train.txt")
    assert len(pairs) == 6 and pairs[0] == ("JPEGImages/train_000000.jpg", "SegmentationClassAug/train_000000.png")
    mask = cv2.imread(str(tmp_path / "set" / pairs[0][1]), cv2.IMREAD_UNCHANGED)
    assert mask.ndim == 2 and mask.shape == (64, 64)
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert not make.make(cfg)
    assert all(p.stat().st_mtime_ns == when for p, (when, _) in files.items())
    (tmp_path / "set/made_with.json").write_text("unfinished")  # as if it had been stopped half-way
    assert make.make(cfg)
    assert all(p.read_bytes() == data for p, (_, data) in files.items())


@pytest.mark.parametrize("option", [
    "train=0", "val=-1", "train=10000000", "train=1.5", "side=0", "side=-5", "side=300", "side=100000", "seed=-1",
    f"seed={2**70}", "objects=[3, 2]", "objects=[0, 2]", "objects=[3]", "objects=[1, 1000000]", "objects=[-2, -1]",
    "diameter=[30, 20]", "diameter=[0, 0]", "diameter=[44, 1e9]", "diameter=[44, .nan]", "diameter=[100, 200]",
    "rotation=-1", "rotation=.inf", "overlap=2", "overlap=-1", "jpeg_quality=0", "jpeg_quality=101"])
def test_options_that_make_no_sense_are_refused_before_anything_is_made(tmp_path, option):
    with pytest.raises(UserError) as caught:
        make.make(config.load(make.ShapesData, make.CONFIG, [f"root={tmp_path / 'set'}", option]))
    assert option.split("=")[0] in str(caught.value) and not (tmp_path / "set").exists()


def test_classes_without_a_silhouette_and_folders_of_others_are_refused(tmp_path):
    def complaint(*options) -> str:
        with pytest.raises(UserError) as caught:
            make.make(config.load(make.ShapesData, make.CONFIG, [f"root={tmp_path / 'set'}", *options]))
        return str(caught.value)

    (tmp_path / "classes.yaml").write_text("classes: [circle, zebra]\nfolds: [[zebra]]")
    assert "'zebra' is no shape" in complaint(f"classes={tmp_path / 'classes.yaml'}")
    (tmp_path / "file").write_text("")
    assert "could not be written" in complaint(f"root={tmp_path / 'file' / 'set'}")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/prepared.json").write_text("{}")
    assert "another data set" in complaint() and len(list((tmp_path / "set").iterdir())) == 1
    (tmp_path / "set/prepared.json").unlink()
    (tmp_path / "set/lists").mkdir()
    (tmp_path / "set/lists/train.txt").write_text("my own")
    assert "another data set" in complaint() and (tmp_path / "set/lists/train.txt").read_text() == "my own"
    assert "another data set" in complaint("root=")


@pytest.mark.parametrize("option", [
    "batch_size=0", "threads=0", "workers=-1", "patch=0", "patch=7", "vision_width=100", "text_width=10", "out=",
    "context_length=3", "embed_dim=0", "vision_layers=-1", "adamw_lr=-1", "weight_decay=-1", "cycles=[]",
    *(f"cycles=[{{muon_lr: 0.1, warmup: 0, decay: 1, seed: 1, attributes: [0, 0, 0], max_scale: 9, caption_weight: 1, "
      f"tile_weight: 0, spread_weight: 0, stages: [{{{stage}}}]}}]" for stage in (
          "side: 64, samples: 9, keep: 1, mosaic: 0, single_share: 0, single_diameter: [9, 9], objects: [1, 1], "
          "diameter: [9, 9]",  # less than a batch
          "side: 64, samples: 999, keep: 1, mosaic: 1, single_share: 0, single_diameter: [9, 9], objects: [1, 1], "
          "diameter: [9, 9]",  # too small for tiles
          "side: 64, samples: 999, keep: 1, mosaic: 0, single_share: 0, single_diameter: [9, 99], objects: [1, 1], "
          "diameter: [9, 9]"))])
def test_options_of_pretraining_that_make_no_sense_are_refused(option):
    with pytest.raises(UserError):
        config.load(pretrain.Pretrain, pretrain.CONFIG, [option])


def test_the_shipped_clip_knows_its_words():
    cfg = config.load(pretrain.Pretrain, pretrain.CONFIG)
    clip = build_clip(read_clip(config.ROOT / cfg.out)).eval()
    top1 = pretrain.accuracy(clip, CLASSES, cfg.cycles[-1].stages[-1].style(single=True), count=200)
    assert top1 >= 0.95


def test_pretraining_runs_and_its_file_loads(tmp_path):
    stage = ("{side: %d, samples: 16, keep: %g, mosaic: %g, single_share: 0.5, single_diameter: [20, 30], "
             "objects: [2, 3], diameter: [14, 20]}")
    cycle = ("{seed: 1, muon_lr: 0.005, warmup: 0.1, decay: 0.5, attributes: [0.5, 0, 0.2], max_scale: 30, "
             "caption_weight: 0.3, spread_weight: 0.5, tile_weight: %g")
    cfg = config.load(pretrain.Pretrain, pretrain.CONFIG, [
        f"out={tmp_path}/clip.pt", "batch_size=8", "vision_width=64", "vision_layers=2",
        f"cycles=[{cycle % 0}, stages: [{stage % (32, 0.5, 0)}, {stage % (48, 0.5, 0)}]}}, "
        f"{cycle % 1}, stages: [{stage % (96, 1, 0.5)}]}}]", "text_layers=1", "workers=0", "threads=1"])
    pretrain.save(pretrain.train(cfg, CLASSES), cfg.out)
    clip = build_clip(read_clip(cfg.out))
    assert clip.visual.side == 96  # the last stage's, position embedding resized on the way
    assert 0 <= pretrain.accuracy(clip, CLASSES, Style(side=96, objects=(1, 1), diameter=(20, 30)), 20) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_style_bounds_the_number_of_objects(count):
    assert all(len(scene(CLASSES, IDS, 0, i, Style(objects=(1, count)))[2]) <= count for i in range(20))
