"""Test-time augmentation: each part against a few lines of its own, then through the Predictor and test.py."""
import numpy as np
import pytest
import torch
from painted import paint
from runs import in_process, results, run_folder

from data.dataset import EvalDataset, eval_loader
from data.samples import exhaustive
from data.transform import FITS
from model.plus.pamr import refine
from util.config import CONFIGS, Config, load
from util.evaluation.augmented import Augmentation
from util.evaluation.experiment import Experiment
from util.evaluation.predictor import presence_of

ALL = ["eval.flip=true", "eval.refine=3"]


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3)).astype(np.uint8)


def lopsided(images, names):
    """Margins that depend on the side and on the name."""
    return ([torch.from_numpy(image[:, :, 0].astype(np.float32)) * torch.arange(image.shape[1]) + name
             for image, name in zip(images, names)],
            [torch.tensor(float(image[0, 0, 0])) for image in images])


def test_flip_is_the_mean_of_the_image_and_its_mirror_image():
    images, names = [image_of(6, 9), image_of(5, 4)], [3, 7]
    found, there = Augmentation(flip=True)(images, names, lopsided, *lopsided(images, names))
    for image, name, margin, presence in zip(images, names, found, there):
        expected = image[:, :, 0] * ((image.shape[1] - 1) / 2) + name   # columns x and width - 1 - x
        assert np.allclose(margin, expected)
        assert presence == (float(image[0, 0, 0]) + float(image[0, -1, 0])) / 2


def test_refine_is_that_of_the_image():
    image, margin = image_of(12, 16), torch.randn(12, 16)
    found, _ = Augmentation(refine=4)([image], [1], lopsided, [margin], [torch.tensor(0.0)])
    assert torch.equal(found[0], refine(margin, torch.from_numpy(image).permute(2, 0, 1), 4))


def experiment(kind: str, options: list[str]) -> Experiment:
    made = Experiment(load(Config, CONFIGS / "shapes" / f"{kind}.yaml", options))
    made.model.eval()
    return made


@pytest.mark.parametrize("kind", ["plus", "naclip"])
@torch.inference_mode()
def test_the_predictor_s_mean_is_that_of_both_images_one_by_one(kind, tiny_options):
    made = experiment(kind, tiny_options)

    def found(p, flip: bool):
        """Margin and presence by hand; Shapes-5i's images fill the square."""
        out = made.model((p.image.flip(2) if flip else p.image)[None], made.text[[p.sample.class_id - 1]])
        margin = out.logits[0, 1] - out.logits[0, 0]
        there = presence_of(margin, None if out.presence is None else out.presence[0]).item()
        return (margin.flip(1) if flip else margin), there

    batch = next(iter(made.data.loader(made.data.draws()[0][:3], originals=True)))
    for p, f in zip(made.predictor()(batch), made.predictor(augmentation=Augmentation(flip=True))(batch), strict=True):
        (straight, here), (turned, there) = found(p, False), found(p, True)
        assert torch.equal(p.image, f.image) and torch.equal(p.prior, f.prior)
        assert torch.allclose(straight, p.margin, atol=1e-4) and p.presence == pytest.approx(here, abs=1e-4)
        assert torch.allclose((straight + turned) / 2, f.margin, atol=1e-4)
        assert f.presence == pytest.approx((here + there) / 2, abs=1e-4)


@pytest.mark.parametrize("fit", ["cut", "released"])
def test_images_that_fill_no_square(fit, tiny_options, tmp_path):
    """Zoom and flip come out at the images' own sizes, whatever the batch."""
    made = experiment("naclip", [*tiny_options, f"eval.fit={fit}"])
    index = paint(tmp_path, [(128, 80), (33, 66), (64, 45)])
    predict, fill, found = made.predictor(augmentation=Augmentation(True, True), fill=(9, 9, 9)), (9, 9, 9), []
    for size in (3, 1):
        dataset = EvalDataset(tmp_path, index, exhaustive(index, (1, 2, 3), 1), 3, 64, fill, FITS[fit], True)
        found.append([p for batch in eval_loader(dataset, size, 0) for p in predict(batch)])
    for p, q in zip(*found, strict=True):
        assert p.margin.shape == p.mask.shape and torch.allclose(p.margin, q.margin, atol=1e-3)


@pytest.mark.slow
def test_a_whole_test_with_all_of_them(tiny_options, tmp_path):
    """By a model without training, which finds something everywhere: the tiny training's finds nothing yet."""
    found = []
    for k, more in enumerate(([], ALL, [*ALL, "eval.batch_size=3"])):
        done = in_process("test.py", "--config", "config/shapes/naclip.yaml", *tiny_options, "eval.name_check=true",
                          "eval.protocol=episodic", "eval.samples=10", f"exp={tmp_path / str(k)}", *more)
        assert done.returncode == 0, done.stderr
        found.append(results(run_folder(tmp_path / str(k), "naclip")))
    plain, augmented, again = found
    assert plain["per_class"] != augmented["per_class"] == pytest.approx(again["per_class"], abs=0.1)
    assert augmented["absent_name_miou"] == pytest.approx(again["absent_name_miou"], abs=0.1)
