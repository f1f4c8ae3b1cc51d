"""What the released code does differently, one by one and all together, and its checkpoints, against a reference."""
import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from released_reference import FACTS, Reference
from runs import in_process

import convert
from data.fold import FoldData
from data.folds import Classes, classes_of
from data.samples import Sample
from data.transform import FITS, to_input_released, to_original_released
from model.build import build_esda, build_losses, embed_names
from model.checkpoints import FullCheckpoint, from_released, full_checkpoint, our_name, released_name
from model.clip.text_encoder import TextEmbedding
from model.clip.tokenizer import Tokenizer
from model.clip.weights import WeightsError
from model.losses import EsdaLosses
from model.released import ReleasedInteractor
from util.config import ROOT, Config, flat, load, to_dict
from util.evaluation.evaluate import evaluate
from util.evaluation.predict import Predictor
from util.options import Loss, Model
from util.run import checkpoint
from util.runtime.errors import UserError
from util.training.resume import read_run

SWITCHES = {  # by the name of the fact in the reference: our options
    "token_order": {"token_order": "released"}, "sign": {"sign": "released"}, "ignored": {"ignored": "background"},
    "cls_twice": {"cls_twice": True}, "mask_padding": {"mask_padding": False}, "align_corners": {"align_corners": True}}
OPTIONS = dict(size=48, replace_indices=[1, 2], dropout=0.0, pixel_mean=[0.485, 0.456, 0.406],
               pixel_std=[0.229, 0.224, 0.225])
TINY = dict(side=48, patch=8, width=128, layers=4, dim=64, vocabulary=50, length=10, text_layers=2, replaced=(1, 2))
RELEASED = "config/shapes/released.yaml"
WEIGHTS = {"main": 1.0, "last": 0.2, "others": 0.1}
SEEDS = {"token_order": 13, "cls_twice": 5, "mask_padding": 21, "+".join(FACTS): 15}  # of random weights; see Margins


class Margins:
    """How far the reference's forward pass stays from the kinks of its gradient, as shares of what is typical.

    The kinks are ReLU's at zero, and the lowest and highest cosine of a similarity map where another patch is as low or
    as high. Where a value lies within rounding of a kink, the gradient may jump by some 0.4 % on one processor and not
    on another.
    """
    LEAST = 5e-5  # fifty times the rounding of fp32

    def __init__(self, reference: Reference):
        self.least, self._similarity = 1.0, reference.similarity
        reference.similarity = self.similarity
        for module in reference.modules():
            if isinstance(module, torch.nn.ReLU):
                module.register_forward_hook(
                    lambda module, args, output: self.see((args[0].abs().min() / args[0].std()).detach()))

    def see(self, margin) -> None:
        self.least = min(self.least, margin.item())

    def similarity(self, patches, vectors):
        maps = self._similarity(patches, vectors)                            # in [0, 1]
        for values in maps.detach().flatten(1).sort().values:
            self.see(min(values[1], 1 - values[-2]))
        return maps


def options(facts) -> tuple[Model, Loss]:
    """Config sections ``model`` and ``loss`` with the switches of ``facts`` on."""
    on = {key: value for fact in facts for key, value in SWITCHES[fact].items()}
    loss = Loss(**{key: on.pop(key) for key in ("sign", "ignored") if key in on})
    return Model(**{**OPTIONS, **on}), loss


def save(reference: Reference, path: Path, prefix: str = "", **changes) -> Path:
    """A released checkpoint."""
    state = {prefix + name: tensor for name, tensor in reference.state_dict().items()}
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9).state_dict()
    torch.save({"epoch": 6, "state_dict": {**state, **changes}, "optimizer": optimizer}, path)
    return path


def ours(path: Path, model_options: Model):
    """The model that test.py would make of a released checkpoint."""
    full = full_checkpoint(checkpoint.read(path, ""), path)
    model = build_esda(model_options, full.clip)
    checkpoint.restore(model, full.saved, path, full.clip.fingerprint)
    return model


def batch(length: int = 10):
    torch.manual_seed(3)
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    ids = torch.zeros(2, length, dtype=torch.long)
    ids[0, :4], ids[1, :6] = torch.tensor([48, 5, 7, 49]), torch.tensor([48, 9, 3, 3, 8, 49])
    target = torch.zeros(2, 48, 48, dtype=torch.uint8)
    target[:, 6:27, 11:38] = 1
    target[0, :3], target[1, :, 41:] = 255, 255
    return images, ids, target


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


# The whole, against the reference

@pytest.mark.parametrize("facts", [(), *[(fact,) for fact in FACTS], FACTS], ids="+".join)
def test_logits_loss_and_every_gradient_agree_with_the_reference(facts, tmp_path):
    reference = Reference(**TINY, facts=facts).fill(SEEDS.get("+".join(facts), 20))
    margins = Margins(reference)
    model_options, loss_options = options(facts)
    model = ours(save(reference, tmp_path / "released.pth"), model_options).train()
    images, ids, target = batch()
    with torch.no_grad():
        text = model.text_encoder(ids)
    output = model(images, text)
    loss = build_losses(model, loss_options, model_options)(output, target)["loss"]
    loss.backward()
    logits, prior, after = reference(images, ids)
    expected = reference.loss(logits, prior, after, target)
    expected.backward()
    assert margins.least > Margins.LEAST, "the case says nothing: choose another seed"
    assert difference(output.logits, logits) < 1e-4 and difference(output.prior, prior) < 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = dict(reference.named_parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(model.trainable_state()) > 60
    for name, p in trained.items():
        assert theirs[released_name(name)].grad.abs().max() > 0, f"{name} is not put to the test"
        assert difference(p.grad, theirs[released_name(name)].grad) < 1e-4, name


@pytest.mark.parametrize("fact, changes", [
    ("token_order", {"logits", "main"}), ("mask_padding", {"logits", "main"}),
    ("cls_twice", {"logits", "prior", "blocks", "main", "last", "others"}),
    ("align_corners", {"logits", "main", "last", "others"}), ("sign", {"last", "others"}),
    ("ignored", {"main", "last", "others"})])
def test_a_switch_changes_what_it_should_and_nothing_else(fact, changes, tmp_path):
    path = save(Reference(**TINY).fill(0), tmp_path / "released.pth")
    images, ids, target = batch()
    before, found = target.clone(), []
    for facts in ((), (fact,)):
        model_options, loss_options = options(facts)
        model = ours(path, model_options).train()
        with torch.no_grad():
            output = model(images, model.text_encoder(ids))
            losses = build_losses(model, loss_options, model_options)(output, target)
        found.append({"logits": output.logits, "prior": output.prior, "blocks": torch.stack([*output.blocks.values()]),
                      **{name: losses[name] for name in WEIGHTS}})
    assert {what for what in found[0] if not torch.equal(found[0][what], found[1][what])} == changes
    assert torch.equal(target, before), "the caller's target is left alone"


# One switch after another

class Untouched(torch.nn.Module):
    """Stands for a block, to see where tokens go."""

    def forward(self, tokens, mask=None):
        return tokens


def test_token_order_gives_the_published_counts():
    semantic, patches = -1 - torch.arange(79.0), torch.arange(900.0)  # each token is its number
    read = {}
    for order in ("described", "released"):
        interactor = ReleasedInteractor(1, 1, 1, 1, 2, moves_tokens=order == "released")
        for stacks in (interactor.vl, interactor.iee, interactor.sse):
            for i in range(len(stacks)):
                stacks[i] = Untouched()
        interactor.semantic_tokens = lambda *_: (semantic[None, :, None], torch.ones(1, 79, dtype=torch.bool))
        read[order] = interactor(None, None, patches[None, :, None])[0, :, 0]
    assert torch.equal(read["described"], patches)
    shift = read["released"] - patches
    assert (shift == 158).sum() == 742
    assert sorted(read["released"][read["released"] < 0].tolist()) == sorted(semantic.tolist())
    assert (shift == 0).sum() == 0
    assert len(set(patches.tolist()) - set(read["released"].tolist())) == 79


def test_padding_stays_hidden_wherever_the_released_order_takes_it():
    text = TextEmbedding(torch.randn(1, 12), torch.randn(1, 10, 64), torch.arange(10)[None] < 4)
    noise = text._replace(tokens=torch.where(text.valid[..., None], text.tokens, torch.randn(1, 10, 64)))
    image, patches = torch.randn(1, 12), torch.randn(1, 36, 64)
    interactor = ReleasedInteractor(64, 1, 12, 64, 2, hides_padding=True).eval()
    with torch.no_grad():
        moved = (interactor(text, image, patches) - interactor(noise, image, patches)).abs().amax(dim=2)[0]
    # read out are patches 24 to 35, then cls, ten text tokens and fused, then patches 0 to 11: six of the text differ
    assert (moved > 1e-3).nonzero().flatten().tolist() == list(range(12 + 1 + 4, 12 + 1 + 10))


def test_names_as_in_the_annotation_files():
    words, annotation = (Classes.read(ROOT / "lists/pascal/classes.yaml", naming=naming)
                         for naming in ("words", "annotation"))
    changed = {a: b for a, b in zip(words.names, annotation.names) if a != b}
    assert changed == {"dining table": "diningtable", "potted plant": "pottedplant", "tv monitor": "tvmonitor"}
    assert words.folds == annotation.folds
    for arch, expected in (("esda", words), ("released", annotation)):
        assert classes_of(load(Config, ROOT / "config/pascal" / f"{arch}.yaml").data) == expected
    for name in ("coco", "shapes"):
        path = ROOT / "lists" / name / "classes.yaml"
        assert Classes.read(path) == Classes.read(path, naming="annotation")


@pytest.mark.parametrize("wrong", ["[diningtable]", "{sofa table: sofatable}", "3"])
def test_odd_annotation_names_are_refused(wrong, tmp_path):
    (tmp_path / "classes.yaml").write_text(f"classes: [a, b, c, d]\nfolds: contiguous\nannotation_names: {wrong}\n")
    assert Classes.read(tmp_path / "classes.yaml").names == ["a", "b", "c", "d"]
    with pytest.raises(UserError, match="classes.yaml: 'annotation_names'"):
        Classes.read(tmp_path / "classes.yaml", naming="annotation")


def test_the_bare_name_is_what_the_text_encoder_reads():
    asked = []

    class Encoder:
        context_length = 8

        def __call__(self, ids):
            asked.extend(ids.tolist())

    embed_names(Encoder(), ["tvmonitor"], load(Config, ROOT / "config/pascal/released.yaml").model)
    assert asked == Tokenizer()("tvmonitor", 8).tolist()


# Evaluation geometry

@pytest.mark.parametrize("height, width, inner", [
    (375, 500, (360, 480)), (500, 375, (480, 360)), (333, 500, (312, 480)),  # 333 * 0.96 = 319.7: 319, and 312
    (500, 500, (480, 480)), (4, 500, (8, 480)),
    (427, 427, (480, 472))])  # int(427 * (480 / 427)) is 479: so it is there too
def test_released_fit_by_hand(height, width, inner):
    image = np.random.default_rng(0).integers(1, 255, (height, width, 3)).astype(np.uint8)
    canvas, found = to_input_released(image, 480, (123, 117, 104))
    assert found == inner and canvas.shape == (480, 480, 3) and canvas.dtype == np.uint8
    assert np.array_equal(canvas[:inner[0], :inner[1]], cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR))
    assert not canvas[inner[0]:].any() and not canvas[:, inner[1]:].any()


def test_released_way_back_by_hand():
    """375 x 500: the 480 x 480 logits become 500 x 500, corner on corner, and the top 375 rows are scored."""
    rows, columns = torch.meshgrid(torch.arange(480.0), torch.arange(480.0), indexing="ij")
    for ramp, index in ((rows, torch.arange(375)[:, None]), (columns, torch.arange(500)[None])):
        found = to_original_released(ramp, (360, 480), (375, 500))
        assert found.shape == (375, 500)
        assert torch.allclose(found, (index * 479 / 499).expand(375, 500), atol=1e-3)


def test_eval_fit_chooses_both_ways(tiny_options, tiny_shapes, tmp_path):
    root = Path(shutil.copytree(tiny_shapes, tmp_path / "set"))
    image, mask = (root / name for name in (root / "lists/val.txt").read_text().split()[:2])
    for path in (image, mask):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:45])  # 45 x 64
    mine = [f"data.root={root}", f"data.val_list={root}/lists/val.txt"]
    found = {}
    for name in FITS:
        data = FoldData(load(Config, ROOT / "config/shapes/esda.yaml", [*tiny_options, *mine, f"eval.fit={name}"]))
        found[name] = next(iter(data.loader([Sample(0, 1)])))
        assert data.fit is FITS[name]
    assert found["described"].valid_sizes == [(45, 64)] and found["released"].valid_sizes == [(40, 64)]
    assert found["described"].images[0, :, 50, 50].tolist() == [123, 117, 104]
    assert found["released"].images[0, :, 50, 50].tolist() == [0, 0, 0]
    assert np.array_equal(found["described"].masks[0], found["released"].masks[0])


# Configs

@pytest.mark.parametrize("name, rate", [("pascal", 10 * 5e-5), ("coco", 10 * 1e-4), ("shapes", None)])
def test_released_configs_switch_everything_on_and_nothing_else(name, rate):
    esda, released = (flat(to_dict(load(Config, ROOT / "config" / name / f"{arch}.yaml")))
                      for arch in ("esda", "released"))
    assert {key: released[key] for key in esda if esda[key] != released[key]} == {
        "arch": "released", "data.names": "annotation", "model.pixel_mean": [0.485, 0.456, 0.406],
        "model.pixel_std": [0.229, 0.224, 0.225], "model.prompt": "{}", "model.cls_twice": True,
        "model.token_order": "released", "model.mask_padding": False, "model.align_corners": True,
        "loss.sign": "released", "loss.ignored": "background", "eval.fit": "released",
        **({} if name == "shapes" else {"precision": "fp32"})}
    assert rate is None or released["train.lr"] == pytest.approx(rate)


def test_the_losses_of_training_are_those_of_the_config(tmp_path):
    model = ours(save(Reference(**TINY).fill(0), tmp_path / "released.pth"), options(())[0])
    esda, released = (load(Config, ROOT / "config/pascal" / f"{arch}.yaml") for arch in ("esda", "released"))
    assert type(build_losses(model, esda.loss, esda.model)) is EsdaLosses
    for cfg in (esda, released):
        assert build_losses(model, cfg.loss, cfg.model).weights == WEIGHTS
    losses = build_losses(model, released.loss, released.model)
    assert losses.reversed_sign and losses.ignored_as_background and losses.align_corners
    model.image_encoder.prior_indices = frozenset({0, 3})
    assert build_losses(model, esda.loss, esda.model).weights == WEIGHTS
    for indices, left_out in (({0, 1}, "last"), ({3}, "others")):
        model.image_encoder.prior_indices = frozenset(indices)
        assert build_losses(model, esda.loss, esda.model).weights.keys() == WEIGHTS.keys() - {left_out}


# Names

def test_a_full_size_checkpoint_maps_one_to_one():
    with torch.device("meta"):
        theirs = Reference(side=480, patch=16, width=768, layers=12, dim=512, vocabulary=49408, length=77,
                           text_layers=12).state_dict()
    assert {"text_encoder.token_embedding.weight", "text_encoder.transformer.resblocks.11.attn.in_proj_weight",
            "text_encoder.ln_final.bias", "text_encoder.text_projection", "image_encoder.class_embedding",
            "image_encoder.positional_embedding", "image_encoder.conv1.weight", "image_encoder.ln_pre.weight",
            "image_encoder.transformer.resblocks.0.mlp.c_fc.weight", "image_encoder.ln_post.bias", "image_encoder.proj",
            "image_encoder.text_cls_proj.weight", "image_encoder.prompt.0", "image_encoder.prompt.23",
            "decoder.text_embedding_proj.weight", "decoder.text_img_concat_proj.bias",
            "decoder.VL_interaction.1.resblocks.0.ln_1.weight", "decoder.IEE.1.resblocks.0.attn.out_proj.bias",
            "decoder.SSE.0.resblocks.0.mlp.c_proj.weight", "decoder.res2.2.weight", "decoder.cls.0.weight",
            "decoder.cls.3.bias"} <= theirs.keys()
    full = FullCheckpoint(from_released(theirs, "full.pth"), 0, None)
    assert len(full.state) == len(theirs) and sum(t.numel() for t in full.state.values()) == 189_353_346
    assert sum(t.numel() for t in full.trained.values()) == 39_191_938
    assert {released_name(name) for name in full.state} == theirs.keys()
    assert all(full.state[our_name(name)] is tensor for name, tensor in theirs.items())
    assert tuple(full.state["image_encoder.branches.11.up"].shape) == (2, 768)
    assert "at 30 x 30 patches" in full.summary(480) and "resized to 22 x 22" in full.summary(352)


@pytest.fixture(scope="module")
def state() -> dict:
    return Reference(**TINY).fill(0).state_dict()


@pytest.mark.parametrize("change, named", [
    ({"decoder.IEE.1.resblocks.0.ln_2.bias": None}, "missing: decoder.IEE.1.resblocks.0.ln_2.bias"),
    ({"image_encoder.prompt.2": None}, "missing: image_encoder.prompt.2"),
    ({"image_encoder.prompt.2": None, "image_encoder.prompt.3": None},
     "missing: image_encoder.prompt.2, image_encoder.prompt.3"),
    ({"image_encoder.prompt.8": torch.zeros(128, 2)}, "superfluous: image_encoder.prompt.8"),
    ({"decoder.res.0.weight": torch.zeros(256, 129, 3, 3)}, "superfluous: decoder.res.0.weight"),  # ours, not theirs
    ({"image_encoder.text_proj.bias": torch.zeros(128)}, "superfluous: image_encoder.text_proj.bias"),  # likewise
    ({"image_encoder.branches.1.up": torch.zeros(2, 128)}, "superfluous: image_encoder.branches.1.up"),
    ({"logit_scale": torch.zeros(())}, "superfluous: logit_scale"),
    ({"text_encoder.logit_scale": torch.zeros(())}, "superfluous: text_encoder.logit_scale"),
    ({"decoder.cls.3.weight": torch.zeros(3, 64, 1, 1)}, "of another shape: decoder.cls.3.weight"),
    ({"image_encoder.positional_embedding": torch.zeros(36, 128)},
     "of another shape: image_encoder.positional_embedding"),
    ({"image_encoder.conv1.weight": None}, "missing or odd 'conv1.weight'"),
    ({"module.decoder.cls.3.bias": torch.zeros(2)}, "superfluous: module.decoder.cls.3.bias")])
def test_every_tensor_is_accounted_for(change, named, state):
    changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
    with pytest.raises(WeightsError, match="broken.pth") as caught:
        full_checkpoint({"epoch": 0, "state_dict": changed, "optimizer": {}}, "broken.pth")
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"epoch": 3, "state_dict": [1]},
                                     {"epoch": 3, "state_dict": {"a": 1}}, {"epoch": 3, "state_dict": {}}])
def test_an_odd_checkpoint_is_refused(content):
    with pytest.raises(WeightsError, match="odd.pth: not "):
        full_checkpoint(content, "odd.pth")


def test_a_leading_module_makes_no_difference(state):
    plain, led = (full_checkpoint({"epoch": 0, "state_dict": {prefix + k: t for k, t in state.items()}}, "x").state
                  for prefix in ("", "module."))
    assert plain.keys() == led.keys() and all(torch.equal(plain[k], led[k]) for k in plain)


def test_the_position_embedding_is_resized_where_the_input_is_another(tmp_path):
    path = save(Reference(**TINY).fill(0), tmp_path / "released.pth")
    as_saved, smaller = (ours(path, Model(**{**OPTIONS, "size": size})) for size in (48, 32))
    assert as_saved.image_encoder.positional_embedding.shape == (37, 128)
    assert smaller.image_encoder.positional_embedding.shape == (17, 128)
    full = full_checkpoint(checkpoint.read(path, ""), path)
    assert torch.equal(as_saved.image_encoder.positional_embedding, full.state["image_encoder.positional_embedding"])
    images, ids, _ = batch()
    smaller.eval()(images[..., :32, :32], smaller.text_encoder(ids))


# Files and commands

@pytest.fixture(scope="module")
def reference() -> Reference:
    """With CLIP's vocabulary, for the set of 64 px."""
    return Reference(**{**TINY, "side": 64, "vocabulary": 49408, "length": 16}).fill(1).eval()


@pytest.fixture(scope="module")
def released_file(reference, tmp_path_factory) -> Path:
    return save(reference, tmp_path_factory.mktemp("released") / "best.pth", prefix="module.")


def by_reference(reference: Reference, cfg: Config) -> dict:
    """Scores of the reference itself under our evaluator."""
    class Model(torch.nn.Module):
        def forward(self, images, ids):
            logits, prior, _ = reference(images, ids)
            return SimpleNamespace(logits=logits, prior=prior, presence=None)

    data = FoldData(cfg)
    ids = Tokenizer()(data.classes.names, 16)
    predict = Predictor(Model(), ids, data.fit, torch.device("cpu"), contextlib.nullcontext())
    return evaluate(predict, data.loader(data.draws()[0]), data.unseen, data.classes, cfg.eval.protocol).scores


def test_released_checkpoints_through_the_commands(tiny_options, reference, released_file, tmp_path,
                                                   monkeypatch):
    """convert.py there and back, and test.py on the released file and on what convert.py made of it."""
    mine = [*tiny_options, "model.clip=nowhere.pt", "model.replace_indices=[1, 2]"]
    converted, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    done = in_process("convert.py", released_file, converted)
    assert done.returncode == 0 and "epoch 7" in done.stdout and "8 x 8 patches" in done.stdout, done.stderr
    monkeypatch.setattr("sys.argv", ["convert.py", str(converted), str(back)])
    convert.main()
    first, again = (torch.load(path, weights_only=True) for path in (released_file, back))
    assert again.keys() == first.keys() and again["epoch"] == first["epoch"] == 6
    first = {name.removeprefix("module."): tensor for name, tensor in first["state_dict"].items()}
    assert again["state_dict"].keys() == first.keys()
    assert all(torch.equal(first[k], t) and first[k].dtype == t.dtype for k, t in again["state_dict"].items())

    scores = []
    for number, weights in enumerate((released_file, converted)):
        done = in_process("test.py", "--config", RELEASED, *mine, f"weights={weights}", f"run=r{number}")
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if line.startswith(f"{weights}: ")]
        assert len(said) == 1 and f"{len(first)} tensors" in said[0] and "8 x 8 patches" in said[0]
        folder = tmp_path / "exp" / "shapes" / "released" / "fold0" / f"r{number}"
        scores.append(json.loads((folder / "results.json").read_text()))
    assert all(scores[0][key] == scores[1][key] for key in ("per_class", "clip_fingerprint"))
    expected = by_reference(reference, load(Config, ROOT / RELEASED, mine))
    assert scores[0]["per_class"] == pytest.approx(expected["per_class"], abs=0.05) and expected["miou"] > 1
    assert scores[0]["checkpoint"] == str(released_file) and scores[0]["epoch"] == 7 and "trained_on" not in scores[0]


def test_a_broken_released_checkpoint_ends_in_one_line(tiny_options, reference, tmp_path):
    path = save(reference, tmp_path / "broken.pth", **{"decoder.cls.3.bias": torch.zeros(3)})
    done = in_process("test.py", "--config", RELEASED, *tiny_options, f"weights={path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = f"error: {path}: not the tensors of one ESDA: of another shape: decoder.cls.3.bias\n"
    assert done.stderr.endswith(said) and done.stderr.count("error: ") == 1


def trained(tmp_path, tiny_options, *overrides) -> Path:
    """A best.pt as train.py would write it before its first step."""
    cfg = load(Config, ROOT / "config/shapes/esda.yaml", [*tiny_options, *overrides])
    model, clip = convert.build_model(cfg.model)
    checkpoint.write_atomically(tmp_path / "best.pt", {"model": model.trainable_state(), "clip": clip.fingerprint,
                                                       "epoch": 3, "config": to_dict(cfg)})
    return tmp_path / "best.pt"


def test_a_run_of_ours_becomes_safetensors_that_know_their_config(tiny_options, tmp_path):
    best = trained(tmp_path, tiny_options)
    full = convert.read(best)
    convert.write(full, tmp_path / "full.safetensors")
    again = convert.read(tmp_path / "full.safetensors")
    assert again.config == checkpoint.read(best, "")["config"] and again.epoch == 3
    assert again.state.keys() == full.state.keys()
    assert all(torch.equal(again.state[name], tensor) for name, tensor in full.state.items())
    with pytest.raises(WeightsError, match="no place for interactor.token_proj.bias, interactor.token_proj.weight"):
        convert.write(full, tmp_path / "released.pth")  # the tiny CLIP's text is wider than its joint embedding
    assert not (tmp_path / "released.pth").exists()


def test_a_checkpoint_on_a_clip_with_gelu_keeps_it(tmp_path, released_file):
    full = convert.read(released_file)
    assert full.activation == "quickgelu"
    gelu = full._replace(activation="gelu")
    convert.write(gelu, tmp_path / "gelu.safetensors")
    again = convert.read(tmp_path / "gelu.safetensors")
    model, clip = convert.build_model(Model(**{**OPTIONS, "size": 64}), again.clip)
    checkpoint.restore(model, again.saved, "gelu", clip.fingerprint)
    assert clip.activation == "gelu" and clip.fingerprint != full.clip.fingerprint
    with pytest.raises(WeightsError, match="no place for model.activation=gelu"):
        convert.write(gelu, tmp_path / "gelu.pth")


@pytest.mark.parametrize("name", ["ours.bin", "ours"])
def test_convert_wants_a_format_it_knows(name, tmp_path, released_file):
    with pytest.raises(UserError, match="should end in .safetensors"):
        convert.write(convert.read(released_file), tmp_path / name)


def test_safetensors_of_another_hand_are_refused(released_file, tmp_path):
    full, path = convert.read(released_file), tmp_path / "odd.safetensors"
    tensors, metadata = convert.safetensors_content(full, path)
    for config in ("", "[]", "{}", "[" * 100_000, None):
        odd = {} if config is None else {**metadata, "config": config}
        checkpoint.write_safetensors_atomically(path, tensors, odd, "")
        with pytest.raises(WeightsError, match="odd.safetensors: not written by convert.py"):
            convert.read(path)
    spoilt = {**tensors, "text_encoder.ln_final.bias": tensors["text_encoder.ln_final.bias"] + 1}
    checkpoint.write_safetensors_atomically(path, spoilt, metadata, "")
    with pytest.raises(WeightsError, match="odd.safetensors: CLIP's tensors do not have"):
        convert.read(path)
    del spoilt["interactor.cls_proj.bias"]
    checkpoint.write_safetensors_atomically(path, spoilt, metadata, "")
    with pytest.raises(WeightsError, match="missing: interactor.cls_proj.bias"):
        convert.read(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="odd.safetensors: not a checkpoint"):
        convert.read(path)


def test_a_released_checkpoint_cannot_be_resumed(released_file):
    with pytest.raises(UserError, match="resume= wants checkpoints/last.pt"):
        read_run(load(Config, ROOT / RELEASED, [f"resume={released_file}"]))
