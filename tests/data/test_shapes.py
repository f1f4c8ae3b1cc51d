"""Shapes-5i: scenes are pure functions of their number, masks say what is painted, and the shipped CLIP knows words."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.files import read_list
from data.folds import Classes
from data.shapes import captioned, make, pretrain
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


def test_mask_and_caption_tell_the_things_of_the_scene():
    several, first, other = 0, scene(CLASSES, IDS, 1, 7), scene(CLASSES, IDS, 2, 7)
    for i in range(25):
        image, mask, things = scene(CLASSES, IDS, 1, i)
        assert i != 7 or all(map(np.array_equal, first[:2], (image, mask))) and not np.array_equal(image, other[0])
        assert image.shape == (128, 128, 3) and image.dtype == mask.dtype == np.uint8
        names = [thing.name for thing in things]
        assert len(set(names)) == len(names)
        assert set(np.unique(mask)) - {0, 255} <= {CLASSES.index(n) + 1 for n in names}
        assert (mask == 255).any()
        several += len(things) >= 3
        text = captioned.caption(things, 50, (0.5, 0.3, 0.3), np.random.default_rng(i))
        assert set(names) <= set(text.replace(",", "").split()), "a caption names every object"
        solid = (mask != 0) & (mask != 255)
        touching = solid[:, 1:] & solid[:, :-1] & (mask[:, 1:] != mask[:, :-1])
        assert touching.mean() < 0.001, "a border is painted with the object in front"
        assert len(scene(CLASSES, IDS, 0, i, Style(objects=(1, 2)))[2]) <= 2
    assert several >= 20


STAGE = SimpleNamespace(side=128, samples=20, keep=1, mosaic=1, single_share=0.3, single_diameter=[36, 64],
                        objects=[3, 4], diameter=[44, 68])


def test_a_mosaic_tells_of_each_tile_what_its_own_caption_names():
    pairs = captioned.Captioned(STAGE, CLASSES, 3, 32, 8, [0, 0, 0])
    for i in range(6):
        pair = pairs[i]
        grid = pair.tile_of.view(16, 16)
        corners = [grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]]
        assert corners == [0, 1, 2, 3] and (pair.tile_of.bincount() >= 36).all()
        assert (pair.tiles > 0).sum(1).tolist() == [1] * 4, "one object a tile"
        assert torch.equal(pair.named > 0, pair.tiles.sum(0) > 0) and pair.named.sum() == pytest.approx(1)


def test_the_tile_contrast_wants_patches_to_match_their_own_tiles_name_and_spread_names_far_apart():
    """Patches that point at their tile's name have less loss than those that point at another tile's."""
    names, tile_of = torch.eye(4), torch.arange(4).repeat_interleave(16)[None]
    pair = captioned.Pair(None, None, None, torch.eye(4)[None], tile_of)

    def loss(nearest):
        return pretrain.tile_contrast(torch.tensor(5.0), names[nearest], names, pair)

    assert loss(tile_of) < 0.1 < loss((tile_of + 1) % 4)
    assert loss(tile_of.roll(1)) < 0.1, "a tile's best patches decide"
    assert [pretrain.spread(of).item() for of in (torch.ones(4, 4) / 2, names)] == pytest.approx([0, -4])


def test_the_set_has_pascals_layout_and_is_made_once(tmp_path):
    options = [f"root={tmp_path / 'set'}", "train=6", "val=3", "side=64", "diameter=[20, 32]"]
    cfg = config.load(make.ShapesData, make.CONFIG, options)
    make.make(cfg)
    pairs = read_list(tmp_path / "set/lists/train.txt")
    assert len(pairs) == 6 and pairs[0] == ("JPEGImages/train_000000.jpg", "SegmentationClassAug/train_000000.png")
    mask = cv2.imread(str(tmp_path / "set" / pairs[0][1]), cv2.IMREAD_UNCHANGED)
    assert mask.ndim == 2 and mask.shape == (64, 64)
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "set").rglob("*") if p.is_file()}
    make.make(cfg)
    assert all(p.stat().st_mtime_ns == when for p, (when, _) in files.items())
    (tmp_path / "set/made_with.json").write_text("unfinished")  # as if it had been stopped half-way
    make.make(cfg)
    assert all(p.read_bytes() == data for p, (_, data) in files.items())


@pytest.mark.parametrize("root", ["ROOT/set", ""])
def test_folders_of_others_are_not_overwritten(tmp_path, root):
    (tmp_path / "set/lists").mkdir(parents=True)
    (tmp_path / "set/lists/train.txt").write_text("my own")
    with pytest.raises(UserError, match="another data set"):
        make.make(config.load(make.ShapesData, make.CONFIG, [f"root={root.replace('ROOT', str(tmp_path))}"]))
    assert (tmp_path / "set/lists/train.txt").read_text() == "my own"


def test_the_shipped_clip_knows_its_words():
    cfg = pretrain.read_config()
    clip = build_clip(read_clip(config.ROOT / cfg.out)).eval()
    assert pretrain.accuracy(clip, CLASSES, captioned.single_object(cfg.cycles[-1].stages[-1]), count=60) >= 0.95


def test_rates_follow_a_stage_s_place_in_its_cycle_also_among_equal_stages():
    first, last = SimpleNamespace(samples=17), SimpleNamespace(samples=9)
    cycles = [SimpleNamespace(stages=[first, SimpleNamespace(samples=17), last]), SimpleNamespace(stages=[last])]
    found = pretrain.schedule(SimpleNamespace(cycles=cycles, batch_size=8))
    assert [(before, of) for _, _, before, of in found] == [(0, 5), (2, 5), (4, 5), (0, 1)]
    assert [cycle for cycle, *_ in found] == [cycles[0]] * 3 + [cycles[1]]


def test_pretraining_runs_goes_on_where_it_was_stopped_and_its_file_loads(tmp_path, monkeypatch):
    cfg = pretrain.read_config()
    vars(cfg).update(out=f"{tmp_path}/clip.pt", batch_size=8, vision_width=64, vision_layers=2, text_layers=1,
                     workers=0)
    cfg.cycles = cfg.cycles[::3]
    for side, stage in zip((32, 48, 96), [stage for cycle in cfg.cycles for stage in cycle.stages], strict=True):
        vars(stage).update(side=side, samples=16, single_diameter=[20, 30], diameter=[14, 20])
    pretrain.train(cfg, CLASSES)
    clip = build_clip(read_clip(cfg.out))
    assert clip.visual.side == 96  # the last stage's, position embedding resized on the way
    assert 0 <= pretrain.accuracy(clip, CLASSES, Style(side=96, objects=(1, 1), diameter=(20, 30)), 20) <= 1
    cfg.out, save, saved = f"{tmp_path}/again.pt", pretrain._save, []
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 0)

    def stop_at_the_fourth(path, content):
        save(path, content)
        saved.append(path)
        if len(saved) == 4:     # after the first batch of the second stage
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "_save", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(cfg, CLASSES)
    pretrain.train(cfg, CLASSES)
    assert read_clip(cfg.out).fingerprint == read_clip(tmp_path / "clip.pt").fingerprint
    assert len(saved) == 9 and not (tmp_path / "again.pt.part").exists()
